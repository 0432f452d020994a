# shellcheck shell=bash
# Background processes that outlive the script. Each has a file $STATE/pid/NAME with its pid and its start time,
# written by the process itself before it becomes the program, so that no kill of the script can lose one.
# Invariant: a process whose start time is not the recorded one is somebody else's and is never signalled.

# started PID: when the process began, in clock ticks since boot; nothing if there is none or only its zombie.
started() {
  local stat
  { stat=$(<"/proc/$1/stat"); } 2>/dev/null || return 0
  read -r -a stat <<<"${stat##*) }" # the name before it may hold anything, spaces and brackets too
  [ "${stat[0]}" = Z ] || echo "${stat[19]}"
}

# alive NAME: is the recorded process the one that runs under this pid now?
alive() {
  local pid began
  { read -r pid began <"$STATE/pid/$1"; } 2>/dev/null || return 1
  [ -n "$began" ] && [ "$(started "$pid")" = "$began" ]
}

# start NAME COMMAND...: unless it runs already. The log of the life before is kept as NAME.log.1.
start() {
  local name=$1
  shift
  ! alive "$name" || return 0
  mkdir -p "$STATE/pid" "$STATE/log"
  rm -f "$STATE/pid/$name"
  [ ! -f "$STATE/log/$name.log" ] || mv "$STATE/log/$name.log" "$STATE/log/$name.log.1"
  # shellcheck disable=SC2016 # expanded by the inner shell
  setsid nohup bash -c 'source "$0/processes.sh"; echo "$$ $(started $$)" >"$1.new" && mv "$1.new" "$1" && shift && exec "$@"' \
    "$HERE" "$STATE/pid/$name" "$@" >"$STATE/log/$name.log" 2>&1 </dev/null 9>&- &
  disown
}

# stop GRACE NAME...: SIGTERM to all, after GRACE tenths of a second SIGKILL; returns when they are gone.
stop() {
  local grace=$1 name pid _ tenth
  shift
  for name in "$@"; do
    if alive "$name"; then
      read -r pid _ <"$STATE/pid/$name"
      kill "$pid" 2>/dev/null || true
    fi
  done
  for name in "$@"; do
    for ((tenth = 0; tenth < grace + 100; tenth++)); do
      alive "$name" || break
      if [ "$tenth" -ge "$grace" ]; then
        read -r pid _ <"$STATE/pid/$name"
        kill -9 "$pid" 2>/dev/null || true
      fi
      sleep 0.1
    done
    ! alive "$name" || fail "$name does not end, not even by SIGKILL: see /proc/$pid/stack"
    rm -f "$STATE/pid/$name"
  done
}

# names PREFIX: recorded names that begin with it, running or not.
names() {
  local file
  for file in "$STATE"/pid/"$1"*; do
    [ ! -f "$file" ] || basename "$file"
  done
}
