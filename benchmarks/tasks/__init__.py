"""The benchmark tasks, one file each."""

from __future__ import annotations

from benchmarks.tasks.captcha_boxes import CaptchaBoxes
from benchmarks.tasks.captcha_ocr import CaptchaOcr
from benchmarks.tasks.demo import DemoDigits
from benchmarks.tasks.nsfw import NsfwMargin
from benchmarks.tasks.saliency import SaliencyMask
from benchmarks.tasks.task import Task
from benchmarks.tasks.vgg16 import Vgg16Speed

TASKS: tuple[Task, ...] = (DemoDigits(), CaptchaOcr(), CaptchaBoxes(), SaliencyMask(), NsfwMargin(), Vgg16Speed())

__all__ = ["TASKS", "Task"]
