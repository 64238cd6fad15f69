#!/usr/bin/env bash
# Secrets, boards and the address of the pages of `serve` in; a running Grafana out, in a container
# or without one: what it is given as arguments is run.
set -euo pipefail
umask 077

GRAFANA_BOARDS=${GRAFANA_BOARDS:-/etc/echowatch/dashboards}
GRAFANA_SECRETS=${GRAFANA_SECRETS:-/run/secrets}
default=http://127.0.0.1:8630 # what grafana/boards.py writes

fail() {
  echo "grafana/start.sh: $*" >&2
  exit 1
}

# Without a key of its own Grafana encrypts with one that everybody knows.
for name in ca.pem grafana.pem grafana_admin_password grafana_secret_key influx_reader_token; do
  [[ -s $GRAFANA_SECRETS/$name && -r $GRAFANA_SECRETS/$name ]] ||
    fail "secret $GRAFANA_SECRETS/$name is missing, empty or not readable: docker/make_secrets.sh" \
      "makes it, the token of InfluxDB comes from bootstrap"
done

address=${ECHOWATCH_GRAFANA_SNAPSHOT_URL-}
[[ $address =~ ^https?://[A-Za-z0-9[][]A-Za-z0-9.:/_~%[-]*$ ]] ||
  fail "ECHOWATCH_GRAFANA_SNAPSHOT_URL must be an address of http or https, got '$address'"
address=${address%"${address##*[!/]}"} # links have a slash of their own
mkdir -p "$ECHOWATCH_GRAFANA_DASHBOARDS"
for board in "$GRAFANA_BOARDS"/*.json; do
  [[ -e $board ]] || fail "$GRAFANA_BOARDS has no boards"
  sed "s|\"$default\"|\"$address\"|g" "$board" >"$ECHOWATCH_GRAFANA_DASHBOARDS/${board##*/}"
done
exec "$@"
