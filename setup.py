"""Packages of the wheel: templates lie beside the packages, and are installed in one of them."""

import shutil

from setuptools import find_packages, setup

INCLUDED = ("domain*", "drakkar*", "integration*", "recorder*", "sinks*", "workers*")
TEMPLATES = "drakkar_site.templates"

# Else a file that is gone would be in the next wheel: setuptools copies into what it left.
shutil.rmtree("build", ignore_errors=True)
setup(packages=[*find_packages(include=INCLUDED), TEMPLATES], package_dir={TEMPLATES: "templates"})
