#!/bin/sh
# Start the server with two users: `chorus`, who may touch its own keys and channels and nothing else, and
# `operator`, who may do what the runbooks say: look at everything, change settings, delete nothing. Both lists load on
# Redis 6.2 to 8 and Valkey 8 and 9.
# Wants REDIS_PASSWORD, and REDIS_OPERATOR_PASSWORD if there is to be an operator; the file holds their digests only.
set -eu
umask 077
: "${REDIS_PASSWORD:?}"
digest() { printf %s "$1" | sha256sum | cut -d' ' -f1; }
chorus=$(digest "$REDIS_PASSWORD")
if [ -n "${REDIS_OPERATOR_PASSWORD:-}" ]; then
  operator="s/\${CHORUS_REDIS_OPERATOR_SHA256}/$(digest "$REDIS_OPERATOR_PASSWORD")/"
else
  operator='/^user operator /d'
fi
unset REDIS_PASSWORD REDIS_OPERATOR_PASSWORD
folder=${REDIS_CONFIG:-/etc/chorus}
users=${REDIS_USERS:-/tmp/users.acl}
server=${REDIS_SERVER:-$(command -v valkey-server || command -v redis-server)}
sed -e "s/\${CHORUS_REDIS_PASSWORD_SHA256}/$chorus/" -e "$operator" -e "s/\${REDIS_NAMESPACE}/${REDIS_NAMESPACE:-chorus}/g" \
  "$folder/chorus.acl" > "$users"
exec "$server" "$folder/redis.conf" --aclfile "$users" "$@"
