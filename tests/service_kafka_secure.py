"""A Kafka broker out that encrypts, knows its clients by certificate, and users by password."""

import secrets
import shutil
import subprocess
from pathlib import Path

from service_kafka import KafkaServer
from service_process import MissingError, free_port

SCRAM = ("SCRAM-SHA-256", "SCRAM-SHA-512")
LOGIN = "org.apache.kafka.common.security"
DAYS = "2"
# What strict checkers (Python 3.13) demand of each kind of certificate.
EXTENSIONS = {
    "ca": "basicConstraints=critical,CA:true\nkeyUsage=critical,keyCertSign,cRLSign",
    "server": "subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth",
    "client": "extendedKeyUsage=clientAuth",
}


def certificates(folder: Path) -> None:
    """Write a fresh authority and what it signed: ca, server and client, each .crt and .key.

    Raises:
        MissingError: without openssl.
    """
    for name, extensions in EXTENSIONS.items():
        own, key = folder / f"{name}.crt", folder / f"{name}.key"
        settings = folder / f"{name}.cnf"
        settings.write_text(
            f"{extensions}\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid:always\n",
            encoding="utf-8",
        )
        _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", key)
        key.chmod(0o600)
        request = folder / f"{name}.csr"
        _openssl("req", "-new", "-key", key, "-subj", f"/CN=echowatch {name}", "-out", request)
        signer = ("-signkey", key) if name == "ca" else _signed_by(folder)
        kind = ("-extfile", settings, "-days", DAYS, "-out", own)
        _openssl("x509", "-req", "-in", request, *signer, *kind)


def _signed_by(folder: Path) -> tuple[str | Path, ...]:
    return ("-CA", folder / "ca.crt", "-CAkey", folder / "ca.key", "-CAcreateserial")


def _openssl(*arguments: str | Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        raise MissingError("secured Kafka: needs openssl on the PATH for its certificates")
    done = subprocess.run(
        [openssl, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        raise RuntimeError(f"openssl {arguments[0]} failed:\n{done.stderr}")


class SecureKafka(KafkaServer):
    """A broker with secured listeners beside its plain one, and one user.

    `ssl_bootstrap` asks for a client certificate; `sasl_ssl_bootstrap` takes the user by
    SCRAM-SHA-256, SCRAM-SHA-512 and PLAIN over TLS, `sasl_plaintext_bootstrap` by SCRAM.

    Attributes:
        ca_file, cert_file, key_file: PEM files for clients.
        username, password: Of the user.
    """

    def __init__(self, folder: Path, port: int | None = None) -> None:
        folder = folder.resolve()
        self.ports = {name: free_port() for name in ("SSL", "SASL_SSL", "SASL_PLAINTEXT")}
        self.username = "alice"
        self.password = secrets.token_urlsafe(12)
        self.ca_file = folder / "ca.crt"
        self.cert_file = folder / "client.crt"
        self.key_file = folder / "client.key"
        folder.mkdir(parents=True, exist_ok=True)
        certificates(folder)
        store = "".join((folder / f"server.{end}").read_text("utf-8") for end in ("key", "crt"))
        (folder / "server.pem").write_text(store + self.ca_file.read_text("utf-8"), "utf-8")
        super().__init__(folder, port)

    @property
    def ssl_bootstrap(self) -> str:
        """Address for clients with a certificate."""
        return f"127.0.0.1:{self.ports['SSL']}"

    @property
    def sasl_ssl_bootstrap(self) -> str:
        """Address for the user, encrypted."""
        return f"127.0.0.1:{self.ports['SASL_SSL']}"

    @property
    def sasl_plaintext_bootstrap(self) -> str:
        """Address for the user, not encrypted."""
        return f"127.0.0.1:{self.ports['SASL_PLAINTEXT']}"

    def listeners(self) -> dict[str, int]:
        """Port of each listener beside the controller's."""
        return super().listeners() | self.ports

    def properties(self) -> str:
        """Keys, and which listener wants what."""
        plain = f'plain.PlainLoginModule required user_{self.username}="{self.password}";'
        lines = [
            "ssl.keystore.type=PEM",
            f"ssl.keystore.location={self.folder / 'server.pem'}",
            "ssl.truststore.type=PEM",
            f"ssl.truststore.location={self.ca_file}",
            "listener.name.ssl.ssl.client.auth=required",
            f"sasl.enabled.mechanisms={','.join(SCRAM)}",
            f"listener.name.sasl_ssl.sasl.enabled.mechanisms={','.join(SCRAM)},PLAIN",
            f"listener.name.sasl_ssl.plain.sasl.jaas.config={LOGIN}.{plain}",
        ]
        lines += [
            f"listener.name.{listener}.{mechanism.lower()}.sasl.jaas.config="
            f"{LOGIN}.scram.ScramLoginModule required;"
            for listener in ("sasl_ssl", "sasl_plaintext")
            for mechanism in SCRAM
        ]
        return "\n".join(lines) + "\n"

    def _format(self, cluster: str) -> None:
        """Write the user into the broker's first metadata, which only the storage tool can."""
        user = f"name={self.username},password={self.password}"
        users = [word for name in SCRAM for word in ("--add-scram", f"{name}=[{user}]")]
        command = ["kafka.tools.StorageTool", "format", "-t", cluster, "-c", "server.properties"]
        done = subprocess.run(
            [*self._jvm(), *command, *users],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode:
            raise RuntimeError(f"Kafka's storage cannot be made:\n{done.stdout}{done.stderr}")
