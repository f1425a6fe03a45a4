#!/bin/sh
# fences.sh - third-party headers stay where layers.txt's rooms own them: one row for each, "header: files that may include it".
bad=0
while IFS=: read -r header allowed; do
  [ -n "$header" ] || continue
  found=$(grep -rlE "#include <$header" src | grep -vE "$allowed")
  [ -z "$found" ] || { echo "fence: <$header> in:" $found; bad=1; }
done <<'TABLE'
openssl/:^src/(pki|signer)/|^src/net/tls|^src/net/http_|^src/net/h2_|^src/identity/jws
event2/:^src/net/
nghttp2/:^src/net/h2
curl/:^src/net/http_c
seccomp.h:^src/signer/sandbox
p11-kit/:^src/signer/token
sqlite3.h:^src/store/
yaml.h:^src/kube/yaml
TABLE
for word in sprintf vsprintf rand alloca; do
  found=$(grep -rnE "[^a-z_]$word\(" src | grep -vE "/\*|^src/base/ban" | head -3)
  [ -z "$found" ] || { echo "banned: $word in: $found"; bad=1; }
done
exit $bad
