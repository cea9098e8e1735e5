"""The KAN ablation of the thesis's section 3.3 (Table 3.6); run by ``training.ablation``."""
