# The app in a container, also as a Hugging Face Docker Space (user 1000, port 7860):
#   docker build -t mask2kan . && docker run --rm -p 7860:7860 mask2kan
# Reached by a name other than localhost: -e MASK2KAN_HOSTS=demo.example.org, and for the world
# -e MASK2KAN_PUBLIC=1 -e MASK2KAN_PROXIES=<the reverse proxy's address>. `docker stop -t 35` leaves
# the running job the time to finish.
# On a machine with an NVIDIA GPU, `docker run --gpus all ...` uses it.
FROM python:3.12-slim

RUN useradd --create-home --uid 1000 user
WORKDIR /home/user/app

# torch's CPU kernels thread with OpenMP, which the slim image lacks; opencv is the headless build
# and needs no window toolkit.
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/*

COPY requirements.txt .
# cuda-core compiles the attention op's CUDA kernel at run time (the extra [cuda] of pyproject.toml).
RUN pip install --no-cache-dir -r requirements.txt "cuda-core>=1.0,<2"

COPY --chown=user:user app.py ./
COPY --chown=user:user app ./app
COPY --chown=user:user mask2kan ./mask2kan
COPY --chown=user:user weights ./weights
COPY --chown=user:user examples ./examples

USER user
# Hub checkpoints and uploads go where the user may write, whatever user the host runs this as.
ENV GRADIO_SERVER_NAME=0.0.0.0 \
    GRADIO_SERVER_PORT=7860 \
    GRADIO_ANALYTICS_ENABLED=False \
    GRADIO_TEMP_DIR=/tmp/gradio \
    HF_HOME=/tmp/huggingface \
    MASK2KAN_CACHE=/tmp/mask2kan \
    MPLCONFIGDIR=/tmp/matplotlib \
    PYTHONUNBUFFERED=1
EXPOSE 7860
CMD ["python", "app.py"]
