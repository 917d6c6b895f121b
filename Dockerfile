# Weir with what the streaming side needs. `docker compose build` makes it.
FROM python:3.11-slim

WORKDIR /opt/weir
# First what changes seldom. The file pins what the tests run with: the streaming packages and those of the tests.
COPY requirements-dev.txt ./
RUN pip install --no-cache-dir --require-hashes --requirement requirements-dev.txt
COPY pyproject.toml README.md LICENSE ./
COPY schemas schemas
COPY rating rating
COPY pipeline pipeline
COPY jobs jobs
RUN pip install --no-cache-dir --no-deps .

# Volumes that are mounted here belong to this user from the start.
RUN useradd --system --create-home --home-dir /var/lib/weir weir \
    && mkdir -p /var/lib/weir/history \
    && chown -R weir:weir /var/lib/weir
USER weir
WORKDIR /var/lib/weir
EXPOSE 6066
ENTRYPOINT ["weir"]
