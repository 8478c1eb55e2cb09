"""fastai's callbacks as classes to derive from, with fastai's attributes and methods.

Made directly, each of them is the plugin of Callboard that is its counterpart.
"""
