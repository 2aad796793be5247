#!/bin/sh
# python train.py scheduler=sha r_max=9 ~space.data metric=mse fidelity=command fidelity.command='sh examples/descent.sh {optimizer.lr}'
#
# A program in any language, here awk: it fits a polynomial to a sine by gradient descent with momentum. It goes on from
# HALVING_SINCE to HALVING_UNTIL with what it left in HALVING_DIRECTORY, and prints a line of JSON after each epoch.
state="$HALVING_DIRECTORY/state"
test -f "$state" || echo 0 0 0 0 0 0 >"$state"
exec awk -v lr="$1" -v since="$HALVING_SINCE" -v until="$HALVING_UNTIL" -v state="$state" '
function predicted(x) { return w[1] * x + w[2] * x ^ 3 + w[3] * x ^ 5 }
function error(x) { return predicted(x) - sin(3 * x) }
BEGIN {
    getline <state; close(state)
    for (i = 1; i <= 3; i++) { w[i] = $i; v[i] = $(i + 3) }
    for (epoch = since + 1; epoch <= until; epoch++) {
        for (step = 1; step <= 100; step++) {
            x = 2 * ((step * 0.618) % 1) - 1  # the golden ratio shuffles
            for (i = 1; i <= 3; i++) v[i] = 0.9 * v[i] - lr * error(x) * x ^ (2 * i - 1)
            for (i = 1; i <= 3; i++) w[i] += v[i]
        }
        mse = 0
        for (x = -1; x <= 1; x += 0.1) mse += error(x) ^ 2 / 21
        printf "%.17g %.17g %.17g %.17g %.17g %.17g\n", w[1], w[2], w[3], v[1], v[2], v[3] >state; close(state)
        printf "{\"epoch\": %d, \"mse\": %.6f}\n", epoch, mse
    }
}'
