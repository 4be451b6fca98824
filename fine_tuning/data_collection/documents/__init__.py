"""Turn a document, such as a handbook, into questions and answers that can be learned.

reading.py    reads a file, in a child process with limits, as blocks (headings, paragraphs, lists, tables)
sections.py   groups blocks into sections: the blocks under one heading, with the headings above it
facts.py      makes facts from sections: an answer quoted from the text, with questions in several wordings
entailment.py checks that a passage supports a question and its answer
pairs.py      makes pairs to train on from facts, and held-out pairs for the evaluation
"""
