# Two images of the server; serve/deploy/README.md says how to run them.
#   docker build --tag kompakt-cuda .                 NVIDIA GPUs and vLLM, for production
#   docker build --tag kompakt-cpu --target cpu .     no GPU: to try it, and to stand in front of a fleet

# The tag fixes what the locks were made with (Python 3.11) and the Debian release, and lets the patches of both in at
# every build. Who has to repeat a build to the byte names a digest: --build-arg PYTHON_IMAGE=python@sha256:…
ARG PYTHON_IMAGE=python:3.11-slim-bookworm


# --- our package, built where nothing that builds it stays -----------------------------------------------------------
FROM ${PYTHON_IMAGE} AS wheel
ARG PIP_INDEX_URL
WORKDIR /source
COPY requirements/test.txt requirements/
RUN pip install --no-cache-dir --constraint requirements/test.txt hatchling
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY compress compress
COPY serve serve
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheels .


# --- what both images have in common ---------------------------------------------------------------------------------
FROM ${PYTHON_IMAGE} AS base
LABEL org.opencontainers.image.title="Kompakt" \
      org.opencontainers.image.description="Speech translation, English to German and Chinese, over HTTP and WebSocket" \
      org.opencontainers.image.licenses="Apache-2.0"
# a number that is always the same, because volumes and Kubernetes know users by it
RUN groupadd --gid 10001 kompakt \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /cache --shell /usr/sbin/nologin kompakt \
    && install --directory --owner 10001 --group 10001 /cache
# Uploads go to /tmp, all else that is written to /cache, so that the root file system may be read-only. vLLM, Hugging
# Face, FlashInfer and CUDA follow HOME. torch asks for the user's name, which another uid than ours would not have.
ENV HOME=/cache \
    USER=kompakt \
    XDG_CACHE_HOME=/cache \
    NUMBA_CACHE_DIR=/cache/numba \
    TORCHINDUCTOR_CACHE_DIR=/cache/torchinductor \
    TRITON_CACHE_DIR=/cache/triton
# models are directories, and no library has to tell its makers about us: nobody is called
ENV DO_NOT_TRACK=1 \
    GRADIO_ANALYTICS_ENABLED=False \
    HF_HUB_DISABLE_TELEMETRY=1 \
    HF_HUB_OFFLINE=1 \
    VLLM_NO_USAGE_STATS=1
# nothing is imported from the working directory; pip has compiled what there is, and more could not be kept
ENV PATH=/opt/kompakt/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1
ENV SERVE_HOST=0.0.0.0 \
    SERVE_PORT=8000 \
    SERVE_LOG_FORMAT=json
WORKDIR /cache
EXPOSE 8000
# drains; see SERVE_DRAIN_S
STOPSIGNAL SIGTERM
# vLLM may compile for minutes when it starts for the first time
HEALTHCHECK --start-period=15m --start-interval=3s --interval=10s --timeout=5s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['SERVE_PORT']), timeout=4); c.request('GET', '/readyz'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["python", "-m", "serve"]


# --- for the CPU -----------------------------------------------------------------------------------------------------
FROM base AS cpu-packages
ARG PIP_INDEX_URL
# PyTorch's own index of CPU builds; without it the image grows by gigabytes of CUDA that it never uses
ARG PIP_EXTRA_INDEX_URL
COPY requirements/demo.txt /requirements/
RUN python -m venv /opt/kompakt && pip install --no-cache-dir --requirement /requirements/demo.txt

FROM base AS cpu
COPY --from=cpu-packages /opt/kompakt /opt/kompakt
# last, so that a change of code installs no torch
RUN --mount=from=wheel,source=/wheels,target=/wheels pip install --no-cache-dir --no-index --no-deps /wheels/*.whl
USER 10001:10001


# --- for NVIDIA GPUs -------------------------------------------------------------------------------------------------
FROM base AS cuda-packages
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
COPY requirements/vllm-cuda.txt /requirements/
RUN python -m venv /opt/kompakt && pip install --no-cache-dir --requirement /requirements/vllm-cuda.txt

# Not one of NVIDIA's images: torch's wheels bring the CUDA libraries, and the host's container runtime the driver's, so
# that a CUDA image would only bring the same gigabytes a second time.
FROM base AS cuda
# Triton and Inductor compile when a model starts on a kind of GPU for the first time
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
# There is no nvcc, which FlashInfer's sampler would need. NVIDIA_VISIBLE_DEVICES is for who runs the image to set (as
# --gpus and Kubernetes do): from here, it would give every GPU of a machine to a container that asked for none.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    SERVE_ENGINE=vllm \
    VLLM_USE_FLASHINFER_SAMPLER=0
COPY --from=cuda-packages /opt/kompakt /opt/kompakt
# installed, not only copied: vLLM finds our model class through the package's entry point
RUN --mount=from=wheel,source=/wheels,target=/wheels pip install --no-cache-dir --no-index --no-deps /wheels/*.whl
USER 10001:10001
