#!/usr/bin/env bash
# Environment, secrets and server.properties in; a running broker out, in a container or without one.
#
# The first start formats the data folder and gives `admin` its password; access.py does the rest.
set -euo pipefail
umask 077

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
KAFKA_TEMPLATE=${KAFKA_TEMPLATE:-$here/server.properties}
KAFKA_LIBS=${KAFKA_LIBS:-/opt/kafka/libs}
KAFKA_DATA=${KAFKA_DATA:-/var/lib/kafka/data}
KAFKA_SECRETS=${KAFKA_SECRETS:-/run/secrets}
KAFKA_RUN=${KAFKA_RUN:-/tmp} # for what is written anew at each start
KAFKA_BIND=${KAFKA_BIND:-0.0.0.0}
KAFKA_HOST=${KAFKA_HOST:-kafka}
KAFKA_PORT=${KAFKA_PORT:-9092}
KAFKA_OUTSIDE_HOST=${KAFKA_OUTSIDE_HOST:-localhost}
KAFKA_OUTSIDE_PORT=${KAFKA_OUTSIDE_PORT:-9094}
KAFKA_BROKER_PORT=${KAFKA_BROKER_PORT:-9095}
KAFKA_CONTROLLER_PORT=${KAFKA_CONTROLLER_PORT:-9093}
KAFKA_THREADS=${KAFKA_THREADS:-3}
KAFKA_HEAP=${KAFKA_HEAP:-512m}
KAFKA_USER=${KAFKA_USER:-none} # of all containers of the stack, where they have one
KAFKA_DEV=${KAFKA_DEV:-no} # yes: a plaintext listener is what is wanted

fail() {
  echo "kafka/start.sh: $*" >&2
  exit 1
}

secret() { # a file that must hold something
  [[ -s $KAFKA_SECRETS/$1 && -r $KAFKA_SECRETS/$1 ]] ||
    fail "secret $KAFKA_SECRETS/$1 is missing, empty or not readable: docker/make_secrets.sh makes it"
}

render() { # ${NAME} -> its value; an unknown name stops the start
  local text name
  text=$(<"$KAFKA_TEMPLATE")
  while [[ $text =~ \$\{([A-Z_]+)\} ]]; do
    name=${BASH_REMATCH[1]}
    [[ -n ${!name-} ]] || fail "$KAFKA_TEMPLATE wants \${$name}, which is not set"
    text=${text//"\${$name}"/"${!name}"}
  done
  printf '%s\n' "$text" >"$KAFKA_RUN/server.properties"
}

java_run() {
  local java=java
  [[ -z ${JAVA_HOME-} ]] || java=$JAVA_HOME/bin/java
  exec "$java" "-Xms${KAFKA_HEAP_MIN:-128m}" "-Xmx$KAFKA_HEAP" -XX:+ExitOnOutOfMemoryError \
    -XX:-UsePerfData ${KAFKA_JAVA_OPTIONS-} \
    "-Dlog4j2.configurationFile=$here/log4j2.properties" -cp "$KAFKA_LIBS/*" "$@"
}

format() {
  local cluster="" format=("-t" "" "-c" "$KAFKA_RUN/server.properties")
  while [[ ! $cluster =~ ^[A-Za-z0-9_][A-Za-z0-9_-]{21}$ ]]; do
    cluster=$(head -c 16 /dev/urandom | base64 | tr '+/' '-_' | cut -c1-22)
  done
  format[1]=$cluster
  if [[ $KAFKA_DEV != yes ]]; then
    # In a file: a command line can be read by every process of the machine.
    printf -- '--add-scram\nSCRAM-SHA-512=[name=admin,password=%s]\n' \
      "$(<"$KAFKA_SECRETS/kafka_admin_password")" >"$KAFKA_RUN/format"
    format+=("@$KAFKA_RUN/format")
  fi
  (java_run kafka.tools.StorageTool format "${format[@]}") || fail "the data folder cannot be made"
  rm -f "$KAFKA_RUN/format"
}

[[ $KAFKA_USER =~ ^(none|[1-9][0-9]*)$ ]] || # neither 0 nor its names: root, +0
  fail "STACK_UID is $KAFKA_USER, but containers never run as root: give the number of another user" \
    "in docker/.env"
if [[ $KAFKA_DEV != yes ]]; then
  for name in ca.pem kafka.pem kafka_admin_password; do secret "$name"; done
fi
[[ -w $KAFKA_DATA ]] || fail "$KAFKA_DATA cannot be written: it must belong to user $(id -u)"
render
if [[ $KAFKA_DEV != yes ]] && grep -Eq '^[^#]*PLAINTEXT' "$KAFKA_RUN/server.properties"; then
  fail "$KAFKA_TEMPLATE has a listener without encryption: only KAFKA_DEV=yes allows that"
fi
[[ -e $KAFKA_DATA/meta.properties ]] || format
java_run kafka.Kafka "$KAFKA_RUN/server.properties"
