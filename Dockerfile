# One image for workers, web, controller, migration and the demo's helpers, and what images of users
# begin with (docs/your-own-image.md). Two stages: the first has what building needs, the second only
# what running needs.
FROM python:3.12-slim AS build
WORKDIR /build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev
COPY workers/executor/native/launch.c ./
RUN cc -O2 -shared -fPIC -o /build/launch.so launch.c
COPY requirements.txt constraints.txt ./
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir -r requirements.txt -c constraints.txt
COPY pyproject.toml ./
COPY workers/version.py workers/
COPY integration/bin/sbom.py integration/bin/
RUN /venv/bin/python integration/bin/sbom.py -o /build/drakkar.cdx.json /venv

FROM python:3.12-slim
# 711: the environment of a process whose program its user may not read is hidden from that user, so
# that a task finds no secrets in that of process 1.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ripgrep tini \
    && rm -rf /var/lib/apt/lists/* \
    && chmod 711 /usr/bin/tini \
    && useradd --system --uid 10001 --create-home drakkar
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
COPY --from=build /venv /venv
WORKDIR /app
COPY --chown=root:root . .
COPY --from=build /build/launch.so workers/executor/native/
# Which Python packages are in the image, with their licences.
COPY --from=build /build/drakkar.cdx.json /usr/share/doc/drakkar/
# Compiled here once: who runs may not write here, and each start would compile all of it again.
RUN python -m compileall -q domain sinks recorder workers drakkar_site drakkar integration
# In every folder, that of a user's image too, `drakkar` and daphne find what is in /app.
RUN ln -s /app/manage.py /venv/bin/drakkar \
    && echo /app > "$(python -c 'import site; print(site.getsitepackages()[0])')/drakkar.pth"
RUN mkdir -p /var/lib/drakkar && chown drakkar:drakkar /var/lib/drakkar
USER drakkar
VOLUME /var/lib/drakkar
# tini reaps and passes signals on; a worker drains at the first SIGTERM.
ENTRYPOINT ["tini", "--", "drakkar"]
CMD ["runworker", "--cluster", "main"]
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "/app/integration/bin/healthy.py"]
