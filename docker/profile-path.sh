# shellcheck shell=sh
# A profile of the login shell: /etc/profile sets PATH anew; in the agent's session the container's own is put back.
if [ -n "${AGENT_PATH:-}" ]; then
    PATH=$AGENT_PATH
    export PATH
fi
