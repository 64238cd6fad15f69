"""`echowatch bench`: encoders, or the engine, in, figures of merit on this machine out."""

import typer

from pipeline.cli.bench_embeddings import EPILOG, bench_embeddings
from pipeline.cli.bench_engine import bench_engine

app = typer.Typer(help="Measure encoders and the engine on this machine.", no_args_is_help=True)
app.command("embeddings", epilog=EPILOG)(bench_embeddings)
app.command("engine")(bench_engine)
