"""The options of `./run fit BUNDLE`: --help needs no PyTorch."""

from pathlib import Path

from pydantic import Field, PositiveInt
from pydantic_settings import BaseSettings, CliPositionalArg, SettingsConfigDict

REPOSITORY = Path(__file__).parent.parent


class Settings(BaseSettings):
    """Fit plans of few steps to a model: their times, and every coefficient.

    The model itself is the teacher, with many steps, so no data are needed. A plan is stored in the bundle as solver
    `fitted` if it beats every other solver at its steps on held-out seeds. A fit that was stopped goes on.
    """

    model_config = SettingsConfigDict(env_prefix="TRILEMMA_FIT_", cli_kebab_case=True, cli_prog_name="./run fit")

    bundle: CliPositionalArg[Path] = Field(description="folder of the bundle")
    steps: list[PositiveInt] = Field([3, 4, 5], description="numbers of steps, a plan each, e.g. 3,4")
    teacher_steps: PositiveInt = Field(50, description="steps of the teacher")
    images: PositiveInt = Field(800, description="images of the teacher, of which half decide in the end")
    iterations: PositiveInt = Field(3, description="steps of Gauss-Newton's method a plan")
    batch_size: PositiveInt = Field(240, description="images of each")
    work: Path = Field(REPOSITORY / ".cache" / "fit", description="folder in which unfinished fits are kept")

    def cli_cmd(self) -> None:
        from fit.fitting import fit  # here, as it takes PyTorch

        fit(self)
