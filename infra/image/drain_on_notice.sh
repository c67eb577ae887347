#!/usr/bin/env bash
# Tells Ray when AWS is about to take this spot node away, about two minutes before: what runs on it is saved and goes on
# elsewhere. A node to which nobody gives notice asks for ever. Started again, it leaves this to the one that runs.
#
#   drain_on_notice.sh [SECONDS]     how often to ask the machine's metadata (IMDSv2); 5
set -u
every=${1:-5}
metadata=${AWS_EC2_METADATA_SERVICE_ENDPOINT:-http://169.254.169.254}/latest

exec 9>"${TMPDIR:-/tmp}/drain_on_notice.lock"
flock --nonblock 9 || exit 0

ask() { wget --quiet --tries=1 --timeout=2 --output-document=- "$@"; }

# {"action": "terminate", "time": "2026-01-31T08:22:00Z"}; before there is notice: 404.
notice() {
    local token
    token=$(ask --method=PUT --header="X-aws-ec2-metadata-token-ttl-seconds: 60" "$metadata/api/token") || return
    ask --header="X-aws-ec2-metadata-token: $token" "$metadata/meta-data/spot/instance-action"
}

seconds_left() {
    local at left
    at=$(grep -o '20[0-9T:-]*Z' <<<"$1") || at=""
    left=$(($(date --date "${at:-2 minutes}" +%s) - $(date +%s)))
    echo $((left > 0 ? left : 0))
}

# Without a node's id Ray takes this one's; a cluster that is busy is asked again.
until told=$(notice) && RAY_ADDRESS=auto ray drain-node --reason=DRAIN_NODE_REASON_PREEMPTION \
    --reason-message="spot notice: $told" --deadline-remaining-seconds="$(seconds_left "$told")"; do
    sleep "$every"
done
