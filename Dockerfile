# The server of one host. docs/service.md says how to start it, and what it cannot see from inside a container.
ARG BASE=python:3.13-slim
FROM ${BASE}

# What to install: this clone, or a wheel below it, like dist/anvyl_mcp-1.2.3-py3-none-any.whl.
ARG SOURCE=.
# Extras bring the Compose binary and the senders of notices.
ARG EXTRAS=[stacks,notify]
ARG PIP_OPTIONS=""
COPY ${SOURCE} /tmp/source/
RUN set -e; \
    what=$(find /tmp/source -maxdepth 1 -name '*.whl'); \
    python -m pip install --no-cache-dir --root-user-action=ignore ${PIP_OPTIONS} "${what:-/tmp/source}${EXTRAS}"; \
    rm -rf /tmp/source; \
    echo 'anvyl:x:10001:10001:Anvyl MCP server:/var/lib/anvyl:/usr/sbin/nologin' >>/etc/passwd; \
    echo 'anvyl:x:10001:' >>/etc/group; \
    mkdir -p /var/lib/anvyl; \
    chown 10001:10001 /var/lib/anvyl; \
    chmod 700 /var/lib/anvyl

# The name under which the image is published; `clone` for one that you build yourself. `anvyl-mcp upgrade` reads it.
ARG IMAGE=clone
# Everything that changes is in the home; the rest may be read-only.
ENV ANVYL_HOME=/var/lib/anvyl \
    ANVYL_IMAGE=${IMAGE} \
    HOME=/var/lib/anvyl \
    PYTHONDONTWRITEBYTECODE=1
VOLUME /var/lib/anvyl
USER 10001:10001
EXPOSE 4200 4201
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import json, os, urllib.request as http; http.urlopen(json.load(open(os.environ['ANVYL_HOME'] + '/run/serve.json'))['url'] + '/health', timeout=8)"]
# The name in the registry of MCP servers.
LABEL io.modelcontextprotocol.server.name="io.github.anvyl-mcp/anvyl-mcp" \
      org.opencontainers.image.source="https://github.com/anvyl-mcp/anvyl-mcp" \
      org.opencontainers.image.licenses="MIT"
ENTRYPOINT ["anvyl-mcp"]
CMD ["serve"]
