"""Operations in plain PyTorch, in the dtype that they are given; they read like their papers."""
