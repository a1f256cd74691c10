# The words that reproduce_*.sh take, in any order; sourced by them.
#
#   read_words "DIR [linear | nonlinear] [--quick]" "linear|nonlinear" "$@"
#
# sets `quick`, `data` (DIR, absolute) where the usage begins with it, `choice`, the last word that matches the second
# argument, and `device` (cuda13, say), for scripts/setup.sh; goes to the checkout's root. What it does not know is refused:
# usage on stderr, status 2.
read_words() {
  local usage="$1 [cuda13]" choices=$2 word
  shift 2
  data= quick= choice= device=
  for word; do
    if [ "$word" = --quick ]; then
      quick=yes
    elif [[ $word =~ ^(cuda[0-9]+|tpu)$ ]]; then
      device=$word
    elif [ -n "$choices" ] && [[ $word =~ ^($choices)$ ]]; then
      choice=$word
    elif [[ $usage == DIR* && -z $data && $word != -* ]]; then
      data=$(cd "$word" && pwd) || _refuse "$usage"
    else
      _refuse "$usage"
    fi
  done
  [[ $usage != DIR* || -n $data ]] || _refuse "$usage"
  cd "$(dirname "$0")/.."
}

# Goes on after a command that fails with its own sentence, as training does when a run diverged; one that was interrupted
# ends the script. What calls it ends with `exit "$failed"`.
failed=0
go_on() {
  "$@" || {
    failed=$?
    [ "$failed" = 1 ] || exit "$failed"
  }
}

_refuse() {
  echo "usage: bash scripts/${0##*/} $1" >&2
  exit 2
}
