"""Formulas from a table of numbers, by scikit-learn's interface.

python examples/table_formulas.py
"""

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from nanogpkant import KANRegressor

random = np.random.default_rng(0)
table = pd.DataFrame(random.uniform(-2, 2, (500, 3)), columns=["height", "width", "nothing"])
target = 3 * np.sin(table["height"]) + table["width"] ** 2 + random.normal(0, 0.05, 500)
X, unseen, y, wanted = train_test_split(table, target, random_state=0)

model = KANRegressor(hidden=(), random_state=0).fit(X, y)  # a sum of functions of the columns
print(f"R² on unseen rows: {model.score(unseen, wanted):.4f}")
print("\n".join(model.formulas_))
print(model.interpretation_.edges[["input", "importance", "family", "r2"]].to_string(index=False))
