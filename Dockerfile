# The gateway's image: no compiler, no torch, no root. `docker build -t moegate .`
#
# Every command below runs in tests/stack/test_image.py as an unprivileged user over a read-only source
# tree; what was not run is said in docs/deployment.md.

FROM python:3.11-slim-bookworm AS build
COPY requirements-image.lock /opt/source/
RUN mkdir /opt/state && python -m venv /opt/moegate
RUN /opt/moegate/bin/pip install --no-cache-dir --disable-pip-version-check --only-binary :all: --require-hashes -r /opt/source/requirements-image.lock
COPY pyproject.toml README.md LICENSE /opt/source/
COPY gateway /opt/source/gateway
COPY scheduler /opt/source/scheduler
COPY simulation /opt/source/simulation
COPY moegate /opt/source/moegate
COPY protos /opt/source/protos
RUN /opt/moegate/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation --no-index /opt/source
# What only the building needs.
RUN /opt/moegate/bin/pip uninstall --yes --quiet hatchling pathspec pluggy trove-classifiers editables pip

FROM python:3.11-slim-bookworm
COPY --from=build /opt/moegate /opt/moegate
# A volume that is mounted there begins as its user's.
COPY --from=build --chown=10001:10001 /opt/state /var/lib/moegate
ENV PATH=/opt/moegate/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
EXPOSE 50051 50052 9464
ENTRYPOINT ["moegate"]
CMD ["serve", "/etc/moegate/config/moegate.yaml"]
