import ssl

import pytest

from connectors.kafka import topics
from connectors.kafka_access import Access, AccessError, KafkaTrouble
from pipeline.service_settings import Kafka
from pipeline.services.kafka_settings import access_of

SECRET = "not the one"  # noqa: S105  (of nobody)


@pytest.mark.parametrize("security", ["PLAINTEXT", "SASL_PLAINTEXT"])
@pytest.mark.parametrize(
    "address", ["10.0.0.1:9092", "kafka:9092", "0.0.0.0:9092", "[fe80::1]:9092", "localhost.evil:1"]
)
def test_nothing_leaves_the_machine_unencrypted_unasked(security, address):
    with pytest.raises(AccessError, match=f"{security} to .*ALLOW_PLAINTEXT") as caught:
        Access(("127.0.0.1:9092", address), security, username="a", password=SECRET)
    assert "127.0.0.1" not in str(caught.value)
    Access((address,), security, username="a", password=SECRET, allow_plaintext=True)


@pytest.mark.parametrize(
    "address", ["127.0.0.1:9092", "127.8.8.8:1", "localhost:9092", "[::1]:9092"]
)
def test_this_machine_needs_no_encryption(address):
    assert Access((address,)).options()["bootstrap_servers"] == [address]


@pytest.mark.parametrize(
    "address", ["localhost", "localhost:", ":9092", "host:port", "h:0", "h:65536"]
)
def test_an_address_is_a_host_and_a_port(address):
    with pytest.raises(AccessError, match="host:port"):
        Access((address,), allow_plaintext=True)


def test_an_encrypted_wire_may_go_anywhere_and_checks_names():
    context = Access(("kafka:9093",), "SSL").tls()
    assert context.check_hostname
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_a_password_is_never_shown():
    access = Access(("127.0.0.1:1",), "SASL_PLAINTEXT", username="alice", password=SECRET)
    assert SECRET not in repr(access)
    assert access.options()["sasl_plain_password"] == SECRET


def test_files_that_cannot_be_used_are_named_before_anything_connects(tmp_path):
    junk = tmp_path / "ca.pem"
    junk.write_text("no certificate")
    with pytest.raises(AccessError, match=r"ca\.pem cannot be used.*PEM"):
        Access(("kafka:1",), "SSL", ca_file=junk)
    with pytest.raises(AccessError, match=r"gone\.pem cannot be used"):
        Access(("kafka:1",), "SSL", ca_file=tmp_path / "gone.pem")


def test_settings_say_who_we_are_and_a_file_holds_the_secret(tmp_path):
    file = tmp_path / "password"
    file.write_text(f"{SECRET}\n")
    kafka = Kafka(bootstrap="a:1, b:2", security="SASL_SSL", username="alice", password_file=file)
    access = access_of(kafka)
    assert access.bootstrap == ("a:1", "b:2")
    assert access.password == SECRET
    assert (access.mechanism, access.username) == ("SCRAM-SHA-512", "alice")


def sasl(server, mechanism="SCRAM-SHA-512", **changes):
    given = {
        "bootstrap": (server.sasl_ssl_bootstrap,),
        "security": "SASL_SSL",
        "mechanism": mechanism,
        "username": server.username,
        "password": server.password,
        "ca_file": server.ca_file,
    }
    return Access(**(given | changes))


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN"])
def test_a_user_gets_in_over_tls(secure_kafka, mechanism):
    assert topics(sasl(secure_kafka, mechanism), ["none-such"]) == {}


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_a_user_gets_in_on_this_machine_without_tls(secure_kafka, mechanism):
    here = (secure_kafka.sasl_plaintext_bootstrap,)
    access = sasl(secure_kafka, mechanism, bootstrap=here, security="SASL_PLAINTEXT")
    assert topics(access, ["none-such"]) == {}


def test_a_client_certificate_gets_in(secure_kafka):
    files = {name: getattr(secure_kafka, name) for name in ("ca_file", "cert_file", "key_file")}
    access = Access((secure_kafka.ssl_bootstrap,), "SSL", **files)
    assert topics(access, ["none-such"]) == {}


def refused(access, timeout_s=20.0):
    with pytest.raises(KafkaTrouble) as caught:
        topics(access, timeout_s=timeout_s)
    text = str(caught.value)
    assert "\n" not in text
    assert ", ".join(access.bootstrap) in text
    return text


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "PLAIN"])
def test_a_wrong_password_is_said_so(secure_kafka, mechanism):
    text = refused(sasl(secure_kafka, mechanism, password=SECRET))
    assert "wrong user or password" in text
    assert "'alice'" in text
    assert mechanism in text
    assert SECRET not in text
    assert secure_kafka.password not in text


def test_a_mechanism_that_is_not_offered_is_said_so(secure_kafka):
    here = (secure_kafka.sasl_plaintext_bootstrap,)
    text = refused(sasl(secure_kafka, "PLAIN", bootstrap=here, security="SASL_PLAINTEXT"), 5.0)
    assert "PLAIN" in text
    assert "MECHANISM" in text


def test_an_unknown_authority_is_said_so(secure_kafka):
    text = refused(sasl(secure_kafka, ca_file=None))
    assert "not trusted" in text
    assert "CA_FILE" in text


def test_a_missing_client_certificate_is_said_so(secure_kafka):
    access = Access((secure_kafka.ssl_bootstrap,), "SSL", ca_file=secure_kafka.ca_file)
    assert "CERT_FILE" in refused(access)


def test_the_wrong_kind_of_port_is_said_so(secure_kafka):
    assert "SECURITY" in refused(Access((secure_kafka.sasl_ssl_bootstrap,)), 1.5)
    assert "SECURITY" in refused(Access((secure_kafka.sasl_plaintext_bootstrap,)), 1.5)
    tls = Access((secure_kafka.bootstrap,), "SSL", ca_file=secure_kafka.ca_file)
    assert "SECURITY" in refused(tls, 1.5)
