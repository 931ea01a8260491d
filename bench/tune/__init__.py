"""``bench tune``: Optuna proposes small recipes, one run makes and measures them, the front is the answer.

space    the recipe's table [tune]: what may be chosen, and a choice as variants of a recipe
points   a choice, or a variant made by hand, as a recipe of its own that shares what it can with the others
setup    what is found out before any work
maker    makes and measures one point in the run
study    Optuna: the storage, the sampler, what was tried and what it gave
stop     what ends a training early
search   the loop: what is tried next, when the time is up, the front
"""
