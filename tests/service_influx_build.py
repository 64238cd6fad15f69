"""InfluxDB's published sources in, one influxd binary out: for machines without one to download.

Go fetches the server's module and the Flux language beside it, whose half in Rust cargo builds
first. Takes 9 minutes of processor time, once. Without web interface. Nothing is patched.
"""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from service_process import MissingError, say

MODULE = "github.com/influxdata/influxdb/v2"
FLUX = "github.com/influxdata/flux"
TAGS = "sqlite_foreign_keys,sqlite_json"
NEEDED = ("go", "cargo", "gcc", "pkg-config")
# Fast to compile rather than fast to run: it serves tests.
RUST = {
    "CARGO_PROFILE_RELEASE_LTO": "off",
    "CARGO_PROFILE_RELEASE_OPT_LEVEL": "1",
    "CARGO_PROFILE_RELEASE_CODEGEN_UNITS": "16",
    # The same for build scripts, or every crate would be compiled twice.
    "CARGO_PROFILE_RELEASE_BUILD_OVERRIDE_OPT_LEVEL": "1",
    "CARGO_PROFILE_RELEASE_BUILD_OVERRIDE_CODEGEN_UNITS": "16",
}


def buildable() -> bool:
    """Whether the compilers are there."""
    return all(shutil.which(tool) for tool in NEEDED)


def build(version: str, binary: Path) -> None:
    """Build influxd.

    Args:
        version: Such as 2.7.12.
        binary: File to write.

    Raises:
        MissingError: without the compilers, or where a step fails, with the end of its words.
    """
    absent = [tool for tool in NEEDED if shutil.which(tool) is None]
    if absent:
        raise MissingError(f"InfluxDB: building it needs {', '.join(absent)} on the PATH")
    say(f"building influxd {version} from its published sources, 5 to 10 minutes, once ...")
    with tempfile.TemporaryDirectory(prefix="echowatch-influxd-") as folder:
        work = Path(folder)
        server = _module(work, MODULE, f"v{version}")
        flux_version = _required(server / "go.mod", FLUX)
        flux = _module(work, FLUX, flux_version)
        say("building influxd: Flux (cargo) ...")
        _cargo(work, flux)
        _describe(work, flux, flux_version)
        say("building influxd: server (go) ...")
        flags = f"-s -w -X main.version=v{version}"
        where = ("-o", str(binary), "./cmd/influxd")
        _go(work, server, "build", "-tags", TAGS, "-ldflags", flags, *where)
    say(f"built {binary}")


def _module(work: Path, path: str, version: str) -> Path:
    """Folder of a module's sources, fetched by go."""
    say(f"building influxd: fetching {path} {version} ...")
    told = _run(["go", "mod", "download", "-json", f"{path}@{version}"], work, {})
    return Path(json.loads(told)["Dir"])


def _required(go_mod: Path, path: str) -> str:
    """The version of a module that a go.mod asks for."""
    for line in go_mod.read_text(encoding="utf-8").splitlines():
        words = line.split()
        if words[:1] == [path]:
            return words[1]
    raise MissingError(f"InfluxDB: {go_mod} does not name {path}")


def _cargo(work: Path, flux: Path) -> None:
    """Flux's static library, into work/rust/release.

    Run beside the sources, whose rust-toolchain.toml would ask for a compiler of its own; without
    the feature "strict", which turns the warnings of newer compilers into errors.
    """
    _run(
        [
            *("cargo", "rustc", "--quiet", "--locked", "--release"),
            *("--manifest-path", str(flux / "libflux" / "flux" / "Cargo.toml")),
            *("--no-default-features", "--features", "cffi", "--crate-type", "staticlib"),
        ],
        work,
        RUST | {"CARGO_TARGET_DIR": str(work / "rust")},
    )


def _describe(work: Path, flux: Path, version: str) -> None:
    """Tell pkg-config of it, by which Flux's Go half finds its Rust half."""
    lines = (
        "Name: Flux",
        "Description: Flux",
        f"Version: {version.removeprefix('v')}",
        f"Libs: -L{work / 'rust' / 'release'} -l:libflux.a -ldl -lm -lpthread",
        f"Cflags: -I{flux / 'libflux' / 'include'}",
    )
    (work / "flux.pc").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _go(work: Path, server: Path, *arguments: str) -> None:
    """Run go in the server's sources: their replace directives forbid `go install`."""
    variables = {"PKG_CONFIG_PATH": str(work), "CGO_ENABLED": "1", "CGO_CFLAGS": "-O1"}
    _run(["go", *arguments], server, variables | {"GOFLAGS": "-buildvcs=false"})


def _run(command: list[str], folder: Path, variables: dict[str, str]) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        words = (done.stdout + done.stderr)[-3000:]
        raise MissingError(f"InfluxDB: `{' '.join(command[:3])} ...` failed:\n{words}")
    return done.stdout
