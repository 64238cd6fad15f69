#!/usr/bin/env bash
# Certificates, passwords and tokens of the stack out, each in a file that only its owner reads.
#
# What exists stays: run it again after adding a file or a host, or to see when certificates expire.
# It needs bash and openssl and shows no secret.
set -euo pipefail
umask 077

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=$here/secrets
env_file=$here/.env
owner=""
force=no
days=825 # the most that browsers accept is 825 days (CA/Browser Forum ballot 193)
ca_days=3650
hosts=()
only=()

passwords=(
  kafka_admin_password kafka_ingest_password kafka_worker_password kafka_serve_password
  kafka_operator_password influx_admin_password influx_admin_token grafana_admin_password
  grafana_secret_key serve_token
)
# InfluxDB makes these itself: `echowatch influx init` fills the empty files.
given_later=(influx_writer_token influx_reader_token)
certificates=(kafka.pem influx.pem grafana.pem serve.pem)

usage() {
  cat <<TEXT
usage: make_secrets.sh [--host NAME]... [--dir DIR] [--user UID:GID] [--days N] [--force] [FILE]...

  --host NAME     name or IP address under which clients reach this machine; localhost and the names
                  inside the stack are always there
  --dir DIR       where to (default: secrets/ beside this script, and .env beside it for compose)
  --user UID:GID  owner of the files and user of the containers (default: you; for root 10001:10001)
  --days N        life of the certificates (default $days; the authority's is $ca_days)
  --force         make FILEs anew even if they exist; without FILE: all of them, the authority too
  FILE            ca.pem ${certificates[*]} ${passwords[*]} ${given_later[*]}
TEXT
}

fail() {
  echo "make_secrets.sh: $*" >&2
  exit 1
}

known() {
  local name
  for name in ca.pem "${certificates[@]}" "${passwords[@]}" "${given_later[@]}"; do
    [[ $name == "$1" ]] && return 0
  done
  return 1
}

alternative() { # hosts in, subjectAltName out
  local host list=""
  while read -r host; do
    if [[ $host =~ ^[0-9.]+$ || $host == *:* ]]; then list+=",IP:$host"; else list+=",DNS:$host"; fi
  done
  echo "${list#,}"
}

while (($#)); do
  case $1 in
    --host | --dir | --user | --days) (($# > 1)) || fail "$1 needs a value; see --help" ;;&
    --host) hosts+=("$2"); shift ;;
    --dir) folder=$2; env_file=""; shift ;;
    --user) owner=$2; shift ;;
    --days) days=$2; shift ;;
    --force) force=yes ;;
    -h | --help) usage; exit 0 ;;
    -*) fail "unknown option $1; see --help" ;;
    *) known "$1" || fail "unknown file $1; see --help"; only+=("$1") ;;
  esac
  shift
done
command -v openssl >/dev/null || fail "needs openssl on the PATH"
[[ $days =~ ^[1-9][0-9]*$ ]] || fail "--days must be a positive whole number, got '$days'"
[[ -z $owner || $owner =~ ^[1-9][0-9]*:[0-9]+$ ]] ||
  fail "--user must be UID:GID in numbers, not root, got '$owner'"
for host in ${hosts[@]+"${hosts[@]}"}; do
  [[ $host =~ ^:{0,2}[A-Za-z0-9][A-Za-z0-9.:-]*$ ]] &&
    openssl req -new -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout /dev/null \
      -subj /CN=test -addext "subjectAltName=$(alternative <<<"$host")" -out /dev/null 2>/dev/null ||
    fail "--host must be a name or an address, got '$host'"
done
if [[ -n $env_file && -s $env_file ]]; then # what belongs to others now, containers cannot read
  user=$(sed -n 's/^STACK_UID=//p' "$env_file"):$(sed -n 's/^STACK_GID=//p' "$env_file")
  [[ -z $owner || $owner == "$user" ]] ||
    fail "--user is $owner, but containers run as $user: change STACK_UID, STACK_GID in $env_file"
  [[ $user == : || $user =~ ^[1-9][0-9]*:[0-9]+$ ]] ||
    fail "STACK_UID:STACK_GID is '$user' in $env_file: containers never run as root, give the bare" \
      "numbers of another user"
  if ((EUID == 0)) && [[ $user =~ ^[1-9][0-9]*:[0-9]+$ ]]; then owner=$user; fi
fi
if ((EUID == 0)) && [[ -n $env_file && -z $owner ]]; then
  owner=10001:10001 # containers never run as root
fi

asked() { # whether a file is to be made at all
  ((${#only[@]})) || return 0
  local name
  for name in "${only[@]}"; do [[ $name == "$1" ]] && return 0; done
  return 1
}

due() { # whether a file is to be written now
  asked "$1" && { [[ $force == yes ]] || [[ ! -s $folder/$1 ]]; }
}

put() { # stdin into a file; never half written
  local new=$folder/.$1.new
  cat >"$new"
  chmod 600 "$new"
  mv -f "$new" "$folder/$1"
  echo "made $1"
}

key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 2>/dev/null; }

make_ca() {
  local work=$1
  key >"$work/ca.key"
  openssl req -x509 -new -key "$work/ca.key" -sha256 -days "$ca_days" -subj "/CN=echowatch authority" \
    -addext "basicConstraints=critical,CA:true,pathlen:0" \
    -addext "keyUsage=critical,keyCertSign,cRLSign" -out "$work/ca.pem" 2>/dev/null
  put ca.key <"$work/ca.key"
  put ca.pem <"$work/ca.pem"
}

names_of() { # hosts of a certificate, one per line
  case $1 in
    kafka.pem) echo kafka ;;
    influx.pem) echo influxdb ;;
    grafana.pem) echo grafana ;;
    serve.pem) echo serve ;;
  esac
  printf '%s\n' localhost 127.0.0.1 ${hosts[@]+"${hosts[@]}"}
}

make_certificate() { # key, certificate and authority in one PEM file
  local name=$1 work=$2 usage=serverAuth
  # The broker is a client of itself: its own listener asks for a certificate.
  [[ $name == kafka.pem ]] && usage=serverAuth,clientAuth
  cat >"$work/extensions" <<TEXT
basicConstraints=critical,CA:false
keyUsage=critical,digitalSignature
extendedKeyUsage=$usage
subjectAltName=$(names_of "$name" | alternative)
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid:always
TEXT
  key >"$work/key"
  openssl req -new -key "$work/key" -subj "/CN=echowatch-${name%.pem}" -out "$work/request"
  openssl x509 -req -in "$work/request" -CA "$folder/ca.pem" -CAkey "$folder/ca.key" \
    -set_serial "0x$(openssl rand -hex 16)" -sha256 -days "$days" -extfile "$work/extensions" \
    -out "$work/certificate" 2>/dev/null
  cat "$work/key" "$work/certificate" "$folder/ca.pem" | put "$name"
}

check_hosts() { # a certificate that is kept must name what is asked for
  local name=$1 host
  while read -r host; do
    local kind=-checkhost
    [[ $host =~ ^[0-9.]+$ || $host == *:* ]] && kind=-checkip
    openssl x509 -in "$folder/$name" -noout "$kind" "$host" | grep -q "does match" ||
      fail "$name does not name $host: add it with --host $host --force $name (name all hosts)"
  done < <(names_of "$name")
}

mkdir -p "$folder"
chmod 700 "$folder"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if due ca.pem; then
  make_ca "$work"
  ((${#only[@]})) && only+=("${certificates[@]}")
  force_certificates=yes
fi
for name in "${certificates[@]}"; do
  asked "$name" || continue
  if due "$name" || [[ ${force_certificates-} == yes ]]; then
    [[ -s $folder/ca.key ]] || fail "$folder/ca.key is missing: bring it back, or --force ca.pem"
    make_certificate "$name" "$work"
  else
    check_hosts "$name"
  fi
done
for name in "${passwords[@]}"; do
  # 32 bytes, letters and digits only: no tool needs quotes for them.
  if due "$name"; then openssl rand -hex 32 | tr -d '\n' | put "$name"; fi
done
for name in "${given_later[@]}"; do
  if asked "$name" && [[ $force == yes || ! -e $folder/$name ]]; then put "$name" </dev/null; fi
done

if [[ -n $env_file && ! -e $env_file ]]; then
  user=${owner:-$(id -u):$(id -g)}
  cat >"$env_file" <<TEXT
# What differs from plant to plant and is no secret; docker compose reads it.
STACK_UID=${user%:*}
STACK_GID=${user#*:}
STACK_DATA=$here/data
STACK_HOST=${hosts[0]-localhost}
TEXT
  mkdir -p "$here"/data/{kafka,influxdb,grafana}
  echo "made ${env_file##*/}"
fi
if [[ -n $owner && $EUID == 0 ]]; then
  chown -R "$owner" "$folder"
  if [[ -n $env_file && -d $here/data ]]; then chown -R "$owner" "$here/data"; fi
fi
for name in ca.pem "${certificates[@]}"; do
  if [[ -s $folder/$name ]]; then
    echo "$name: until $(openssl x509 -in "$folder/$name" -noout -enddate | cut -d= -f2)"
  fi
done
echo "secrets are in $folder; keep ca.key elsewhere, it is needed for new certificates only"
