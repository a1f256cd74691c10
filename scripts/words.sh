# Reads the words of a command line for the scripts reproduce_*.sh, which source this file. The order of words is free.
#
#   read_words "DIR [linear | nonlinear] [--quick]" "linear|nonlinear" "$@"
#
# The first argument is the usage. The second is a pattern of words from which one can be chosen, or empty.
# The function changes to the root of the checkout and sets
#   data      the absolute path of DIR, if the usage begins with DIR
#   quick     yes for --quick, else empty
#   choice    the last word that matches the pattern
#   device    a word such as cuda13, for scripts/setup.sh
# An unknown word, or a missing DIR, prints the usage and ends the script with status 2.
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

# Runs a command. A failure with status 1, such as a diverged run, is remembered in `failed` and the script goes on. Any
# other status, such as that of an interrupt, ends the script. A script that uses this function ends with
# `exit "$failed"`.
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
