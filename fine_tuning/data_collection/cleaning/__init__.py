"""The rules by which turns are chosen and their texts cleaned. data_cleaner.py applies them to whole conversations."""
