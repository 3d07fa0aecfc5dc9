"""The policy: which images take the next step together. Pure: it knows no clock, thread, lock or I/O.

This one is first come, first served; another policy is another class with these four methods.
"""

from service.core import Array, Batch, Image, Job


class Scheduler:
    """Images in order of arrival, those of a job in order of index."""

    def __init__(self, max_batch: int) -> None:
        self.max_batch = max_batch
        self.waiting = 0  # images not begun
        self.active = 0  # images begun and not finished
        self._images: dict[Image, None] = {}  # ordered, and quick to take from the middle

    def add(self, job: Job) -> None:
        self._images.update(dict.fromkeys(job.images))
        self.waiting += job.n

    def next_batch(self, now: float) -> Batch | None:
        """The oldest image and the oldest others of its method, as many as a batch holds; None when all is done."""
        oldest = next(iter(self._images), None)
        if oldest is None:
            return None
        rows: list[Image] = []
        for image in self._images:
            if image.job.method == oldest.job.method:
                rows.append(image)
                if len(rows) == self.max_batch:
                    break
        for image in rows:
            if not image.begun:
                image.begin()
                image.job.started_s = image.job.started_s or now
                self.waiting -= 1
                self.active += 1
        return Batch(oldest.job.method, rows)

    def advance(self, batch: Batch, x: Array, x0: Array) -> list[Image]:
        """Gives each row its new state, x and x0 (n, C, H, W); returns the images that finished."""
        finished = []
        for row, image in enumerate(batch.images):
            image.x, image.x0 = x[row], x0[row]
            image.step += 1
            if image.finished:
                self._remove(image)
                finished.append(image)
        return finished

    def drop(self, job: Job) -> None:
        """Forgets what is left of a job."""
        for image in job.images:
            if image in self._images:
                self._remove(image)

    def _remove(self, image: Image) -> None:
        del self._images[image]
        if image.begun:
            self.active -= 1
        else:
            self.waiting -= 1
