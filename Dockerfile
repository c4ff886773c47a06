# The service of Step 8 in a container. The file is linted and its commands are tested; the image has
# not been built.
#
#   docker build --tag calibrated-memes .
#   docker run --rm --publish 8000:8000 --volume /path/to/run:/run-of-memes:ro calibrated-memes
#
# The volume is the root of a finished run: models/ and Step_7/. Where it is mounted without :ro and
# user 10001 may write its Step_8/, the histograms that `python -m lib.serving.drift` compares are
# kept there. Each option of `python -m lib.serving.service` may be set as MEMES_<NAME>, such as
# --env MEMES_TOKEN.

FROM python:3.11-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/memes
ENV PATH=/opt/memes/bin:$PATH
WORKDIR /source
COPY constraints.txt ./
# Without CUDA, a tenth of the size; the versions are those of constraints.txt.
RUN python -m pip install --constraint constraints.txt --no-deps \
      --index-url https://download.pytorch.org/whl/cpu torch torchvision
COPY pyproject.toml README.md LICENSE ./
COPY lib ./lib
RUN python -m pip install --constraint constraints.txt '.[serve,ocr,export]'

FROM python:3.11-slim-bookworm
# What OpenCV, which reads text off pictures, needs of the system.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends --yes libgl1 libglib2.0-0 libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 memes
COPY --from=build /opt/memes /opt/memes
# Tokenizers are no tokens.
# hadolint ignore=DL3064
ENV PATH=/opt/memes/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HF_HUB_OFFLINE=1 \
    OMP_WAIT_POLICY=PASSIVE \
    TOKENIZERS_PARALLELISM=false \
    MEMES_ROOT=/run-of-memes \
    MEMES_MODE=full \
    MEMES_HOST=0.0.0.0 \
    MEMES_PORT=8000
USER 10001
WORKDIR /home/memes
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"MEMES_PORT\"]}/readyz', timeout=4)"]
CMD ["python", "-m", "lib.serving.service"]
