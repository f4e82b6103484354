# shellcheck shell=sh
# Read by login shells. /etc/profile resets PATH; in the agent's session this restores the container's PATH.
if [ -n "${AGENT_PATH:-}" ]; then
    PATH=$AGENT_PATH
    export PATH
fi
