import numpy as np, torch, matplotlib.pyplot as plt
from tsmeta.metrics import DatasetHistory, Scores
from tsmeta.history import *
from tsmeta.callback import intervals
from fastai.learner import Learner
from types import SimpleNamespace
rng=np.random.default_rng(0); N=10000
class L_(Learner):
    def __init__(self): pass
l=object.__new__(L_)
recs=[]
q=rng.beta(8,2,N); rows=rng.integers(10,60,N)
for e in range(8):
    k=rng.binomial(rows,np.clip(q*(1-.5*np.exp(-e/2)),0,1)).astype(float)
    m,lo,hi=intervals(rows,k,k,True)
    recs.append((e,'valid',{'dataset':Scores(rows,m[None],lo[None],hi[None])}))
h=DatasetHistory(['accuracy'],[f'machine {i}' for i in range(N)]); h.records=recs
l.__dict__['_dataset_history']=h
ax=Learner.plot_datasets(l); ax.figure.savefig('/tmp/score/big0.png',dpi=90)
ax=Learner.plot_dataset_history(l); ax.figure.savefig('/tmp/score/big1.png',dpi=90)
