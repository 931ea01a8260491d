#!/usr/bin/env bash
# What the action runs, from environment variables: also what a person can run to try it.
set -uo pipefail

# a shallow clone has no base revision; fetch only that one
case "${BASELINE:-}" in
git:origin/*)
    branch="${BASELINE#git:origin/}"
    branch="${branch%%:*}"
    git rev-parse --verify --quiet "origin/$branch" >/dev/null ||
        git fetch --quiet --depth=1 origin "+refs/heads/$branch:refs/remotes/origin/$branch"
    ;;
esac

arguments=(gate)
[ -z "${SUBJECT:-}" ] || arguments+=("$SUBJECT")
[ -z "${BASELINE:-}" ] || arguments+=(--baseline "$BASELINE")
[ -z "${METRICS:-}" ] || arguments+=(--metric "$METRICS")
[ -z "${DATA:-}" ] || arguments+=(--data "$DATA")
[ -z "${BUDGET:-}" ] || arguments+=(--budget "$BUDGET")
[ "${INCONCLUSIVE:-pass}" = fail ] || arguments+=(--allow-inconclusive)
# shellcheck disable=SC2206 # several options in one input are split on purpose
arguments+=(${ARGUMENTS:-} --write bench-gate.md --write bench-gate.json --write bench-gate.xml)

rm -f bench-gate.md bench-gate.json bench-gate.xml
"${BENCH:-bench}" "${arguments[@]}"
code=$?
verdict=FAILED
[ ! -f bench-gate.json ] || verdict=$(sed -n 's/^ "verdict": "\([A-Z]*\)".*/\1/p' bench-gate.json)
[ -z "${GITHUB_OUTPUT:-}" ] || echo "verdict=$verdict" >>"$GITHUB_OUTPUT"
exit "$code"
