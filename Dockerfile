# Weir with what a worker needs: the extras `kafka` and `clickhouse`. `docker compose build` makes it.
# Everything from a package registry is pinned by its hash, also the tools that install and build.
# The full image has `strip`; it has the same Python as the slim one, at the same path.
FROM python:3.11 AS build

WORKDIR /src
COPY requirements-setup.txt requirements-streaming.txt ./
RUN python -m venv /tools \
    && /tools/bin/pip install --no-cache-dir --require-hashes --requirement requirements-setup.txt \
    && python -m venv --without-pip /opt/weir \
    && /tools/bin/uv pip install --no-cache --python /opt/weir/bin/python --require-hashes \
        --requirement requirements-streaming.txt
# 168 MiB that nothing uses: symbols of shared libraries, and Arrow's clients of Flight and S3. Libraries in *.libs were
# patched after they were linked; strip breaks those.
RUN find /opt/weir -name '*.so*' -type f ! -path '*.libs/*' ! -path '*/tests/*' -exec strip --strip-unneeded {} + \
    && rm /opt/weir/lib/python3.11/site-packages/pyarrow/*flight* /opt/weir/lib/python3.11/site-packages/pyarrow/*_s3*
COPY pyproject.toml setup.py MANIFEST.in README.md LICENSE CHANGELOG.md ./
COPY schemas schemas
COPY rating rating
COPY pipeline pipeline
COPY jobs jobs
COPY examples examples
RUN /tools/bin/uv build --offline --wheel --no-build-isolation --python /tools/bin/python --out-dir dist \
    && /tools/bin/uv pip install --offline --no-deps --python /opt/weir/bin/python dist/*.whl \
    && /opt/weir/bin/python -m compileall -q /opt/weir/lib/python3.11/site-packages

FROM python:3.11-slim

COPY --from=build /opt/weir /opt/weir
ENV PATH=/opt/weir/bin:$PATH
# A volume that is mounted below this folder belongs to this user from the start.
RUN useradd --system --create-home --home-dir /var/lib/weir weir \
    && mkdir -p /var/lib/weir/history \
    && chown -R weir:weir /var/lib/weir
USER weir
WORKDIR /var/lib/weir
EXPOSE 6066
ENTRYPOINT ["weir"]
