"""How well a backend that answers nobody is told by the counters that there are: the figures of
0018-passive-signs.md.

A window of each backend: SYNs, and packets that are no SYNs. A backend is suspected where it had
at least 20 SYNs and fewer other packets for each of them than a tenth of the median of the
others, if that is at least 1. A dead one's clients send each SYN twice and nothing else.
"""

import math
import random
import statistics

BACKENDS = 10
WINDOWS = 3000


def poisson(mean):
    if mean > 50:
        return max(0, round(random.gauss(mean, math.sqrt(mean))))
    limit, count, product = math.exp(-mean), 0, random.random()
    while product > limit:
        count, product = count + 1, product * random.random()
    return count


def suspected(window):
    ratios = [others / syns if syns else None for syns, others in window]
    for number, (syns, _) in enumerate(window):
        rest = [ratio for other, ratio in enumerate(ratios) if other != number and ratio is not None]
        median = statistics.median(rest) if rest else 0
        if syns >= 20 and median >= 1 and ratios[number] < median / 10:
            yield number


def simulate(name, flows, packets, flood=0, dead=False, older=0):
    """flows and forged SYNs (flood) for each backend; packets of a flow behind its SYN; older
    connections of each backend, which send 3 packets a window, or 1 to a dead one."""
    random.seed(4)
    wrong = found = 0
    for _ in range(WINDOWS):
        window = []
        for number in range(BACKENDS):
            new, forged = poisson(flows), poisson(flood)
            if dead and number == 0:
                window.append((forged + 2 * new, poisson(older)))
            else:
                others = sum(packets() for _ in range(new)) + poisson(3 * older)
                window.append((forged + new, others))
        hits = set(suspected(window))
        found += dead and 0 in hits
        wrong += any(hit != 0 or not dead for hit in hits)
    told = f"dead one found {100 * found / WINDOWS:5.1f} %" if dead else ""
    print(f"{name:64} wrong {100 * wrong / WINDOWS:5.1f} %  {told}")


def short():
    return random.randint(5, 12)


def heavy_tailed():
    return int(4 * random.paretovariate(1.1))


simulate("100 short flows", 100, short)
simulate("100 short flows, one dead", 100, short, dead=True)
simulate("the same, 200 older connections", 100, short, dead=True, older=200)
simulate("the same, 2,000 older connections", 100, short, dead=True, older=2000)
simulate("the same, flood of 10,000 SYNs, none older", 100, short, flood=10_000, dead=True)
simulate("3 flows of heavy-tailed lengths, flood of 20 SYNs", 3, heavy_tailed, flood=20)
simulate("3 uploads of 1,000 packets, flood of 200 SYNs", 3, lambda: 1000, flood=200)
simulate("1 upload of 10,000 packets, flood of 1,000 SYNs", 1, lambda: 10_000, flood=1000)
