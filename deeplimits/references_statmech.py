"""The part of the bibliography on statistical mechanics, in alphabetical order of the keys."""

STATMECH = r"""
@article{agliari2023,
  author = {Agliari, Elena and Alessandrelli, Andrea and Barra, Adriano and
    Ricci-Tersenghi, Federico},
  title = {Parallel Learning by Multitasking Neural Networks},
  journal = {Journal of Statistical Mechanics: Theory and Experiment},
  number = {11}, year = {2023}, doi = {10.1088/1742-5468/ad0a86},
  eprint = {2308.04106}, archiveprefix = {arXiv},
}

@article{agliari2023supervised,
  author = {Agliari, Elena and Albanese, Linda and Alemanno, Francesco and Alessandrelli, Andrea and
    Barra, Adriano and Giannotti, Fosca and Lotito, Daniele and Pedreschi, Dino},
  title = {Dense {Hebbian} Neural Networks: A Replica Symmetric Picture of Supervised Learning},
  journal = {Physica A}, volume = {626}, pages = {129076}, year = {2023},
  doi = {10.1016/j.physa.2023.129076}, eprint = {2212.00606}, archiveprefix = {arXiv},
}

@article{agliari2023unsupervised,
  author = {Agliari, Elena and Albanese, Linda and Alemanno, Francesco and Alessandrelli, Andrea and
    Barra, Adriano and Giannotti, Fosca and Lotito, Daniele and Pedreschi, Dino},
  title = {Dense {Hebbian} Neural Networks: A Replica Symmetric Picture of Unsupervised Learning},
  journal = {Physica A}, volume = {627}, pages = {129143}, year = {2023},
  doi = {10.1016/j.physa.2023.129143}, eprint = {2211.14067}, archiveprefix = {arXiv},
}

@article{amit1985a,
  author = {Amit, Daniel J. and Gutfreund, Hanoch and Sompolinsky, H.},
  title = {Spin-Glass Models of Neural Networks},
  journal = {Physical Review A},
  volume = {32}, number = {2}, pages = {1007--1018}, year = {1985},
  doi = {10.1103/PhysRevA.32.1007},
}

@article{auffinger2015,
  author = {Auffinger, Antonio and Chen, Wei-Kuo},
  title = {The {Parisi} Formula has a Unique Minimizer},
  journal = {Communications in Mathematical Physics},
  volume = {335}, number = {3}, pages = {1429--1444}, year = {2015},
  doi = {10.1007/s00220-014-2254-z}, eprint = {1402.5132}, archiveprefix = {arXiv},
}

@article{auffinger2017,
  author = {Auffinger, Antonio and Chen, Wei-Kuo},
  title = {{Parisi} Formula for the Ground State Energy in the Mixed p-Spin Model},
  journal = {Annals of Probability},
  volume = {45}, pages = {4617--4631}, year = {2017},
  doi = {10.1214/16-AOP1173}, eprint = {1606.05335}, archiveprefix = {arXiv},
}

@article{crisanti1986,
  author = {Crisanti, A. and Amit, D. J. and Gutfreund, H.},
  title = {Saturation Level of the {Hopfield} Model for Neural Network},
  journal = {Europhysics Letters},
  volume = {2}, number = {4}, pages = {337--341}, year = {1986},
  doi = {10.1209/0295-5075/2/4/012},
}

@article{dealmeida1978,
  author = {de Almeida, J. R. L. and Thouless, D. J.},
  title = {Stability of the {Sherrington-Kirkpatrick} Solution of a Spin Glass Model},
  journal = {Journal of Physics A},
  volume = {11}, number = {5}, pages = {983--990}, year = {1978},
  doi = {10.1088/0305-4470/11/5/028},
}

@article{demircigil2017,
  author = {Demircigil, Mete and Heusel, Judith and L{\"o}we, Matthias and Upgang, Sven and
    Vermet, Franck},
  title = {On a Model of Associative Memory with Huge Storage Capacity},
  journal = {Journal of Statistical Physics},
  volume = {168}, number = {2}, pages = {288--299}, year = {2017},
  doi = {10.1007/s10955-017-1806-y}, eprint = {1702.01929}, archiveprefix = {arXiv},
}

@article{derrida1981,
  author = {Derrida, Bernard},
  title = {Random-Energy Model: An Exactly Solvable Model of Disordered Systems},
  journal = {Physical Review B},
  volume = {24}, number = {5}, pages = {2613--2626}, year = {1981},
  doi = {10.1103/PhysRevB.24.2613},
}

@article{gardner1985,
  author = {Gardner, E.},
  title = {Spin Glasses with p-Spin Interactions},
  journal = {Nuclear Physics B},
  volume = {257}, pages = {747--765}, year = {1985},
  doi = {10.1016/0550-3213(85)90374-8},
}

@article{gardner1987,
  author = {Gardner, Elizabeth},
  title = {Multiconnected Neural Network Models},
  journal = {Journal of Physics A: Mathematical and General},
  volume = {20}, number = {11}, pages = {3453--3464}, year = {1987},
}

@article{guerra2003,
  author = {Guerra, Francesco},
  title = {Broken Replica Symmetry Bounds in the Mean Field Spin Glass Model},
  journal = {Communications in Mathematical Physics},
  volume = {233}, number = {1}, pages = {1--12}, year = {2003},
  eprint = {cond-mat/0205123}, archiveprefix = {arXiv},
}

@inproceedings{krotov2016,
  author = {Krotov, Dmitry and Hopfield, John J.},
  title = {Dense Associative Memory for Pattern Recognition},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {29}, year = {2016}, eprint = {1606.01164}, archiveprefix = {arXiv},
}

@article{lucibello2024,
  author = {Lucibello, Carlo and M{\'e}zard, Marc},
  title = {Exponential Capacity of Dense Associative Memories},
  journal = {Physical Review Letters},
  volume = {132}, pages = {077301}, year = {2024},
  doi = {10.1103/PhysRevLett.132.077301}, eprint = {2304.14964}, archiveprefix = {arXiv},
}

@article{montanari2003,
  author = {Montanari, Andrea and Ricci-Tersenghi, Federico},
  title = {On the Nature of the Low-Temperature Phase in Discontinuous Mean-Field Spin Glasses},
  journal = {European Physical Journal B},
  volume = {33}, number = {3}, pages = {339--346}, year = {2003},
  doi = {10.1140/epjb/e2003-00174-7}, eprint = {cond-mat/0301591}, archiveprefix = {arXiv},
}

@article{parisi1980,
  author = {Parisi, Giorgio},
  title = {A Sequence of Approximated Solutions to the {S-K} Model for Spin Glasses},
  journal = {Journal of Physics A},
  volume = {13}, number = {4}, pages = {L115--L121}, year = {1980},
  doi = {10.1088/0305-4470/13/4/009},
}

@article{sherrington1975,
  author = {Sherrington, David and Kirkpatrick, Scott},
  title = {Solvable Model of a Spin-Glass},
  journal = {Physical Review Letters},
  volume = {35}, number = {26}, pages = {1792--1796}, year = {1975},
  doi = {10.1103/PhysRevLett.35.1792},
}

@article{steffan1994,
  author = {Steffan, H. and K{\"u}hn, R.},
  title = {Replica Symmetry Breaking in Attractor Neural Network Models},
  journal = {Zeitschrift f{\"u}r Physik B},
  volume = {95}, pages = {249--260}, year = {1994},
  doi = {10.1007/BF01312198}, eprint = {cond-mat/9404036}, archiveprefix = {arXiv},
}
"""
