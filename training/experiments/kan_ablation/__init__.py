"""The KAN ablation of the thesis's section 3.3 (Table 3.6); ``training.ablation`` is its command.

``experiments`` says what differs, ``digits`` reads the data, ``classifier`` trains one network,
``runner`` trains them all and keeps the results, ``report`` compares and shows them.
"""
