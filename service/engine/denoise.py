"""Denoising without a service: jobs with a model's defaults, and a loop over all their steps."""

from collections.abc import Sequence

from bundle.loading import Bundle
from service.engine.jobs import Batch, Image, Job
from service.engine.runtime import Array, HostStates, Runtime, StepInputs, stack


def default_job(
    bundle: Bundle,
    *,
    steps: int | None = None,
    solver: str | None = None,
    label: int | None = None,
    seed: int = 0,
    n: int = 1,
) -> Job:
    """A job on this model. Missing arguments have the model's defaults; the label's is "no class"."""
    solver = solver or bundle.default_solver
    return Job(
        id="",
        method=bundle.manifest.name,
        model=bundle.manifest.digest,
        coefficients=bundle.coefficients(
            steps or bundle.default_steps(solver), solver, bundle.solvers[solver].defaults
        ),
        shape=bundle.manifest.state_shape,
        z_dim=bundle.manifest.z_dim,
        label=len(bundle.manifest.classes) if label is None else label,
        seed=seed,
        n=n,
        submitted_s=0.0,
    )


def first_step(bundle: Bundle, rows: int) -> StepInputs:
    """The inputs of the first step of `rows` images with the model's defaults."""
    return Batch(default_job(bundle, n=rows).images).inputs()


def denoise(jobs: Sequence[Job], runtime: Runtime, max_batch: int) -> Array:
    """The images (n, C, H, W) of these jobs of one model, in order, computed `max_batch` rows at a time.

    For runtimes whose states are on the host.
    """
    images = [image for job in jobs for image in job.images]
    while unfinished := [image for image in images if not image.finished]:
        take_step(unfinished[:max_batch], runtime)
    return runtime.decode(HostStates(stack([image.x for image in images])))


def take_step(images: list[Image], runtime: Runtime) -> None:
    """One step of these images."""
    batch = Batch(images)
    x, x0 = runtime.step(batch.inputs())
    for row, image in zip(batch.first_rows, images, strict=True):
        image.advance(x[row], x0[row])
