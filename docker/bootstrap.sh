#!/usr/bin/env bash
# Empty services in; principals and their rights, topics, buckets and tokens out. Run it as often as
# you like: what is there stays. It needs the settings of Kafka's admin and of InfluxDB's.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
secrets=${BOOTSTRAP_SECRETS:-/run/secrets}
python "$here/kafka/access.py" --secrets "$secrets" --wait 120
echowatch topics create
echowatch influx init --tokens "$secrets"
