# The hook server. `make image` builds it with the version of the package.
# BASE is any image with Python 3.13 and pip; requirements.lock is made for that version (make lock).
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# Without pip: what the final image gets holds the server and what it imports, nothing that installs.
RUN python3 -m venv --without-pip /opt/postgres-writer
# Before the sources, so that a change of code does not download everything again.
COPY requirements.lock requirements-build.lock /src/
RUN python3 -m pip install --require-hashes --only-binary :all: -r /src/requirements-build.lock \
 && python3 -m pip --python /opt/postgres-writer/bin/python install --require-hashes --only-binary :all: \
      -r /src/requirements.lock
COPY setup.cfg pyproject.toml README.md /src/
COPY hooks /src/hooks
RUN python3 -m pip wheel --no-deps --no-build-isolation --wheel-dir /wheel /src \
 && python3 -m pip --python /opt/postgres-writer/bin/python install --no-deps --no-index /wheel/*.whl

FROM ${BASE}
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="postgres-writer" \
      org.opencontainers.image.description="Metacontroller hook server that keeps one PostgreSQL row per PostgresWriter resource" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# A name for the number, because libpq asks for the user's home; a number for USER, because runAsNonRoot checks it.
RUN python3 -m pip uninstall --yes --quiet --root-user-action=ignore pip \
 && rm -rf /usr/local/lib/python3.*/ensurepip \
 && groupadd --gid 10001 postgres-writer \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin postgres-writer
COPY --from=build /opt/postgres-writer /opt/postgres-writer
ENV PATH=/opt/postgres-writer/bin:${PATH} \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOOK_HOST=::
USER 10001:10001
EXPOSE 8080
# The exec form: the server itself is process 1 and gets the signals.
ENTRYPOINT ["postgres-writer", "serve"]
