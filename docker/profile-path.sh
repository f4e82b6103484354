# shellcheck shell=sh
# Read by login shells. /etc/profile resets PATH. In the agent's session this restores the container's PATH. Elsewhere it
# adds the folder into which npm, pnpm, yarn and pip install programs.
PATH=${AGENT_PATH:-/agent/home/.local/bin:$PATH}
export PATH
