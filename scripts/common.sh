# Functions that the scripts reproduce_*.sh share. These scripts source this file; run by itself, it does nothing.

# Reads the arguments of a script, in any order, and changes to the root of the checkout.
#
#   read_arguments "DIR [linear | nonlinear] [--quick]" "linear|nonlinear" "$@"
#
# The first argument is the usage. The second is a pattern of names of which the user may choose one, or empty. An
# unknown argument or a missing DIR prints the usage and ends the script with status 2. The function sets
#   data      the absolute path of DIR, if the usage begins with DIR
#   quick     yes if --quick is given, else empty
#   control   yes if the argument control is given, which only a usage with [control] takes, else empty
#   choice    the last argument that matches the pattern, else empty
#   device    an extra of jax for scripts/setup.sh, such as cuda13, else empty
read_arguments() {
  local usage="$1 [cuda13]" choices=$2 argument
  shift 2
  data= quick= control= choice= device=
  for argument; do
    if [ "$argument" = --quick ]; then
      quick=yes
    elif [[ $usage == *"[control]"* && $argument == control ]]; then
      control=yes
    elif [[ $argument =~ ^(cuda[0-9]+|tpu)$ ]]; then
      device=$argument
    elif [ -n "$choices" ] && [[ $argument =~ ^($choices)$ ]]; then
      choice=$argument
    elif [[ $usage == DIR* && -z $data && $argument != -* ]]; then
      data=$(cd "$argument" && pwd) || _refuse "$usage"
    else
      _refuse "$usage"
    fi
  done
  [[ $usage != DIR* || -n $data ]] || _refuse "$usage"
  cd "$(dirname "$0")/.."
}

_refuse() {
  echo "usage: bash scripts/${0##*/} $1" >&2
  exit 2
}

# Runs a command. If the command fails with status 1, as training does when a run diverges, the script continues, and
# `failed` is 1 from then on. Any other failure, such as an interrupt, ends the script at once. A script that uses this
# function ends with `exit "$failed"`.
failed=0
keep_going() {
  "$@" || {
    failed=$?
    [ "$failed" = 1 ] || exit "$failed"
  }
}
