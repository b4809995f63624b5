"""FFCVLoader: batches for mmpretrain out of a .beton file, decoded and augmented in threads."""

from __future__ import annotations

import itertools
import os
import random
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.dataset import DefaultSampler
from mmengine.logging import print_log
from mmpretrain.registry import DATA_SAMPLERS
from mmpretrain.structures import DataSample

from shd_vit.data.beton import Beton
from shd_vit.data.jpeg import decode
from shd_vit.errors import ConfigError, DatasetError
from shd_vit.hosts.mmpretrain.data_loaders import DATA_LOADERS
from shd_vit.hosts.mmpretrain.ffcv_config import check_reader, split_pipeline

CHANNELS = {'bgr': 3, 'rgb': 3, 'grayscale': 1}


@DATA_LOADERS.register_module()
class FFCVLoader:
    """Iterates over a .beton file in mmpretrain's batches.

    A batch is ``dict(inputs, data_samples)``: inputs (B, C, H, W) uint8, channels last in memory
    and in pinned memory where there is a GPU; one DataSample with ``gt_label`` and ``sample_idx``
    an image. It is the caller's: no later batch writes into it.

    - A sample's random numbers come from (seed, epoch, index of the sample): pixels depend neither
      on the number of threads nor on that of processes.
    - An exception in a thread is raised by the iterator, with the sample's index.
    - Leaving an epoch early, however it happens, ends its threads.

    Every pass over the loader is an epoch of its own; ``loader.sampler.set_epoch`` says which is
    next, as mmengine's DistSamplerSeedHook does when a run is resumed.

    Args:
        beton: File that tools/data/write_ffcv.py wrote.
        batch_size: Images a batch, of this process.
        pipeline: mmpretrain's transforms as config dicts, out of
            ``shd_vit.data.transforms.FFCV_TRANSFORMS``. LoadImageFromFile and PackInputs may
            stand around them: the loader does what they do.
        sampler: Config of a DefaultSampler.
        num_workers: Threads. Default: this process's share of the cores that it may use.
        drop_last: Leave out a last batch that is not full.
        channel_order: 'bgr', as mmpretrain's reader gives it, so that one data_preprocessor
            (to_rgb=True) serves this loader and a folder; 'rgb'; or 'grayscale', one channel of
            luminance, as the reader with ``color_type='grayscale'`` gives it.
        prefetch: Batches worked on ahead of the one that the caller has.
        seed: Of order and augmentation. Default: one for all processes, drawn at random.

    Raises:
        ConfigError: If a field has a value that cannot work.
        DatasetError: If the file is missing, incomplete or altered.
    """

    def __init__(
        self,
        beton: str,
        batch_size: int,
        pipeline: Sequence[dict] = (),
        sampler: dict | None = None,
        num_workers: int | None = None,
        drop_last: bool = False,
        channel_order: str = 'bgr',
        prefetch: int = 2,
        seed: int | None = None,
    ) -> None:
        # numba, which a plain install leaves out.
        from shd_vit.data.transforms import build_transforms, warm_up

        if num_workers is None:
            num_workers = _share_of_cores()
        for field, value in (
            ('batch_size', batch_size), ('num_workers', num_workers), ('prefetch', prefetch),
        ):  # fmt: skip
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f'{field}={value!r} of FFCVLoader: expected a whole number >= 1')
        if channel_order not in CHANNELS:
            raise ConfigError(
                f'channel_order={channel_order!r} of FFCVLoader: expected one of {list(CHANNELS)}'
            )
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.drop_last = drop_last
        self.channel_order = channel_order
        self.prefetch = prefetch
        self.dataset = Beton(beton)
        self.sampler = DATA_SAMPLERS.build(
            sampler or dict(type='DefaultSampler', shuffle=False),
            default_args=dict(dataset=self.dataset, seed=seed),
        )
        if not isinstance(self.sampler, DefaultSampler):
            raise ConfigError(
                f'sampler={type(self.sampler).__name__} of FFCVLoader: expected DefaultSampler; '
                'one that gives a sample several times an epoch would give the same pixels'
            )
        # Grey images have three equal channels until all transforms are through.
        self._order = 'bgr' if channel_order == 'bgr' else 'rgb'
        reader, transforms = split_pipeline(pipeline)
        check_reader(reader, channel_order, self.dataset)
        self._pipeline = build_transforms(transforms, self._order)
        self._thread = threading.local()
        print_log(f'{beton}: {len(self.dataset):,} images, {num_workers} threads', 'current')
        seconds = warm_up(self._pipeline)
        if seconds > 2:
            print_log(
                f'Compiled the augmentation in {seconds:.0f} s; kept for later runs', 'current'
            )
        self._shape = self._load(0, epoch=0).shape

    def __len__(self) -> int:
        """Batches an epoch, of this process."""
        samples = len(self.sampler)
        return samples // self.batch_size if self.drop_last else -(-samples // self.batch_size)

    def __iter__(self) -> Iterator[dict]:
        epoch, order = self.sampler.epoch, list(self.sampler)
        self.sampler.set_epoch(epoch + 1)
        starts = range(0, len(self) * self.batch_size, self.batch_size)
        return self._epoch(epoch, [order[i : i + self.batch_size] for i in starts])

    def _epoch(self, epoch: int, batches: list[list[int]]) -> Iterator[dict]:
        stop = threading.Event()
        to_submit = iter(batches)
        ahead: deque[Any] = deque()
        pool = ThreadPoolExecutor(self.num_workers, thread_name_prefix='FFCVLoader')

        def submit(count: int) -> None:
            for indices in itertools.islice(to_submit, count):
                ahead.append(_Batch(self, epoch, indices, pool, stop))

        try:
            submit(self.prefetch)
            while ahead:
                submit(1)
                yield ahead.popleft().result()
        finally:  # also when the caller leaves the loop, or drops the iterator
            stop.set()
            pool.shutdown(cancel_futures=True)

    def _load(self, index: int, epoch: int) -> np.ndarray:
        """One sample, (H, W, C) uint8. The array may be overwritten by this thread's next."""
        try:
            stored = self.dataset.read(index)
            rng = random.Random(f'{self.sampler.seed} {epoch} {index}')
            if not self._pipeline:
                return self._output(self._decode(*stored))
            first, *others = self._pipeline
            params = first.draw(rng, *stored[1:3])
            image = first.apply(self._decode(*stored, first.box(*params)), *params)
            for transform in others:
                image = transform(image, rng)
            return self._output(image)
        except DatasetError:
            raise
        except Exception as error:
            raise DatasetError(
                f'{self.dataset.path}: sample {index}: {type(error).__name__}: {error}'
            ) from error

    def _decode(
        self, data: bytes, height: int, width: int, is_jpeg: bool, box: tuple | None = None
    ) -> np.ndarray:
        """The image, or an image of which a box is right and the rest is anything."""
        image = self._buffer(height * width * 3).reshape(height, width, 3)
        is_grey = self.channel_order == 'grayscale'
        if is_jpeg and is_grey:
            luminance = np.empty((height, width, 1), np.uint8)
            decode(data, height, width, luminance, 'grayscale', box)
            image[:] = luminance
        elif is_jpeg:
            decode(data, height, width, image, self._order, box)
        else:
            top, left, rows, columns = box or (0, 0, height, width)
            part = np.s_[top : top + rows, left : left + columns]
            pixels = np.frombuffer(data, np.uint8).reshape(height, width, 3)[part]
            if is_grey:
                pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None]
            image[part] = pixels[..., ::-1] if self._order == 'bgr' else pixels
        return image

    def _output(self, image: np.ndarray) -> np.ndarray:
        return image[..., : CHANNELS[self.channel_order]]

    def _buffer(self, size: int) -> np.ndarray:
        """Memory of this thread, used again: fresh pages for every image would be page faults."""
        buffer = getattr(self._thread, 'buffer', None)
        if buffer is None or len(buffer) < size:
            buffer = self._thread.buffer = np.empty(size, np.uint8)
        return buffer[:size]


class _Batch:
    """A batch that the pool's threads fill; each takes the next sample that no other has."""

    def __init__(
        self,
        loader: FFCVLoader,
        epoch: int,
        indices: list[int],
        pool: ThreadPoolExecutor,
        stop: threading.Event,
    ) -> None:
        self.loader, self.epoch, self.indices, self.stop = loader, epoch, indices, stop
        self.images = torch.empty(
            (len(indices), *loader._shape), dtype=torch.uint8, pin_memory=torch.cuda.is_available()
        )
        self.rows = self.images.numpy()
        self.todo = iter(range(len(indices)))  # next() on it is atomic
        self.tasks: list[Future] = [pool.submit(self._fill) for _ in range(loader.num_workers)]

    def _fill(self) -> None:
        for row in self.todo:
            if self.stop.is_set():
                return
            image = self.loader._load(self.indices[row], self.epoch)
            if image.shape != self.rows.shape[1:]:
                raise DatasetError(
                    f'{self.loader.dataset.path}: sample {self.indices[row]} is '
                    f'{image.shape[1]}x{image.shape[0]} after the pipeline and sample 0 '
                    f'{self.rows.shape[2]}x{self.rows.shape[1]}: add a RandomResizedCrop or a '
                    'CenterCrop'
                )
            self.rows[row] = image

    def result(self) -> dict:
        """The filled batch, waited for; what went wrong in a thread is raised here."""
        for task in self.tasks:
            task.result()
        labels = torch.from_numpy(self.loader.dataset.labels[self.indices])
        return dict(
            inputs=self.images.permute(0, 3, 1, 2),
            data_samples=[
                DataSample(metainfo=dict(sample_idx=index)).set_gt_label(label)
                for index, label in zip(self.indices, labels.split(1), strict=True)
            ],
        )


def _share_of_cores() -> int:
    """Cores that this process may use, over the processes that torchrun started on this host."""
    return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get('LOCAL_WORLD_SIZE', 1)))
