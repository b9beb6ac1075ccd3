"""The paper's two experiments, few-shot learning and meta-transfer: files of equal names stand side by side."""
