"""Parts of the GPU benchmark that end badly."""

import os
import signal
import time

from pipeline.benchmarks.gpu.recorder import Recorder


def hang(recorder: Recorder) -> None:
    os.setsid()
    recorder.figures(before=1)
    time.sleep(600)


def crash(recorder: Recorder) -> None:
    os.setsid()
    os.kill(os.getpid(), signal.SIGKILL)  # as the machine does when its memory is full
