#!/bin/sh
# Start the server with one user besides nobody: `chorus`, who may touch its own keys and channels and nothing else.
# Wants REDIS_PASSWORD; the file holds its digest only.
set -eu
umask 077
: "${REDIS_PASSWORD:?}"
digest=$(printf %s "$REDIS_PASSWORD" | sha256sum | cut -d' ' -f1)
unset REDIS_PASSWORD
folder=${REDIS_CONFIG:-/etc/chorus}
users=${REDIS_USERS:-/tmp/users.acl}
sed -e "s/\${CHORUS_REDIS_PASSWORD_SHA256}/$digest/" -e "s/\${REDIS_NAMESPACE}/${REDIS_NAMESPACE:-chorus}/g" \
  "$folder/chorus.acl" > "$users"
exec "${REDIS_SERVER:-valkey-server}" "$folder/redis.conf" --aclfile "$users" "$@"
