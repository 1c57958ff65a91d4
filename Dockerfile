# The gateway's image: no compiler, no torch, no root. `docker build -t moegate .`
#
# tests/image builds it with buildah and runs it: `make test-image`. Where there is no way out, give
# --build-arg BASE_IMAGE=... --build-arg PIP_INDEX_URL=... (docs/deployment.md).

ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
# pip reads these from its environment.
ARG PIP_INDEX_URL=https://pypi.org/simple
ARG PIP_TRUSTED_HOST=
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
RUN /opt/moegate/bin/pip uninstall --yes --quiet hatchling pathspec pluggy trove-classifiers editables setuptools pip

FROM ${BASE_IMAGE}
# The gateway installs nothing, and the fewer packages, the fewer findings of a scanner.
RUN rm -rf /usr/local/lib/python3*/site-packages/pip* /usr/local/lib/python3*/site-packages/setuptools* /usr/local/lib/python3*/site-packages/wheel* /usr/local/bin/pip*
COPY --from=build /opt/moegate /opt/moegate
# A volume that is mounted there begins as its user's.
COPY --from=build --chown=10001:10001 /opt/state /var/lib/moegate
ENV PATH=/opt/moegate/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
EXPOSE 50051 50052 8080 8090 9464
ARG VERSION=
ARG REVISION=
LABEL org.opencontainers.image.title="moegate" \
      org.opencontainers.image.description="A gRPC and HTTP inference gateway for Mixture-of-Experts models on your own vLLM servers" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENTRYPOINT ["moegate"]
CMD ["serve", "/etc/moegate/config/moegate.yaml"]
