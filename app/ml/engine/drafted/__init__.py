"""The fast answer engine: an answer is drafted as a tree of tokens, and one pass of the model judges the whole tree.

A pass reads the tokens of many questions at once: what is new of each prompt, and a tree of likely answers behind it.
At every node of the tree the model says which token it would take; walking along its own choices from the root gives just
what stepwise greedy decoding gives, in one to three passes where that takes one a token.

    nodes      the tree of one question: tokens, states of the grammar, what the model said
    drafting   which nodes are worth a place in a pass
    questions  one question on its way: prompt, tree, walk, beam, answer
    rows       where keys and values of a question stand; the prompt's known start is not computed again
    passes     what one pass is asked, as one array
    slots      the adapters' weights, side by side
    trie       the grammars' edges as arrays, and the masked choice for a whole pass
    network    the forward pass over a pass's tokens; attention and kernels are its parts
    captured   the same as graphs
    engine     the loop: admit, pass, judge, finish
"""
