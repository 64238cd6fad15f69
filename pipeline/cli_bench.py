"""`echowatch bench`: encoders and test sets in, figures with confidence intervals out."""

import typer

from pipeline.cli_bench_engine import bench_engine

app = typer.Typer(help="Measure encoders and the engine on this machine.", no_args_is_help=True)
app.command("engine")(bench_engine)
