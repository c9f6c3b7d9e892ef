"""Packages of the wheel: templates lie beside the packages, and are installed in one of them."""

from setuptools import find_packages, setup

INCLUDED = ("domain*", "drakkar*", "integration*", "recorder*", "sinks*", "workers*")
TEMPLATES = "drakkar_site.templates"

setup(packages=[*find_packages(include=INCLUDED), TEMPLATES], package_dir={TEMPLATES: "templates"})
