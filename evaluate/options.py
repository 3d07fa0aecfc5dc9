"""The options of `./run evaluate --data FOLDER`: --help needs no PyTorch."""

from pathlib import Path

from pydantic import Field, PositiveInt
from pydantic_settings import BaseSettings, SettingsConfigDict

REPOSITORY = Path(__file__).parent.parent


class Settings(BaseSettings):
    """Measure quality and speed of every served method, at every point of its family, through a running service.

    Points that the manifest already has, on as many images, are not measured again.
    """

    model_config = SettingsConfigDict(
        env_prefix="TRILEMMA_EVALUATE_", cli_kebab_case=True, cli_prog_name="./run evaluate"
    )

    data: Path = Field(description="data set of the models, with training and test images")
    bundles: Path = Field(REPOSITORY / "bundles", description="folder of bundles; results go into their manifests")
    checkpoints: Path = Field(REPOSITORY / "checkpoints", description="folder of the checkpoints of the bundles")
    methods: list[str] = Field([], description="only these methods, e.g. ddim,latent")
    steps: list[PositiveInt] = Field([], description="only points with these numbers of steps, e.g. 4,10")
    images: PositiveInt = Field(
        5000,
        description="images a point, with the classes of the test set; with --steps, fewer for points that take long",
    )
    judges: Path = Field(
        REPOSITORY / "checkpoints", description="folder of evaluation classifiers; a new one is saved here"
    )
    report: Path = Field(
        REPOSITORY / "docs" / "benchmarks" / "quality.md",
        description="page that gets the table; plot, pictures and CSV go beside it",
    )

    def cli_cmd(self) -> None:
        from evaluate.measure import evaluate  # here, as it takes PyTorch

        evaluate(self)
