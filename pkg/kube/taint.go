// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
)

// taintAttempts bounds how often a node is read anew because somebody else
// changed it meanwhile: the list of taints is everybody's.
const taintAttempts = 5

// Taint puts a taint on a node, or takes it off; the others stay as they are. A
// node that is gone is no error.
func (c *Client) Taint(ctx context.Context, node string, taint corev1.Taint, on bool) error {
	client := c.clients[corev1.SchemeGroupVersion]
	var err error
	for range taintAttempts {
		obj := &corev1.Node{}
		err = client.Get().Resource("nodes").Name(node).Do(ctx).Into(obj)
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read node %s: %w", node, err)
		}
		same := func(t corev1.Taint) bool { return t.Key == taint.Key && t.Effect == taint.Effect }
		if slices.ContainsFunc(obj.Spec.Taints, same) == on {
			return nil
		}
		taints := slices.DeleteFunc(slices.Clone(obj.Spec.Taints), same)
		if on {
			taints = append(taints, taint)
		}
		body, errBody := json.Marshal([]patchStep{
			{"test", "/metadata/resourceVersion", obj.ResourceVersion}, {"add", "/spec/taints", taints},
		})
		if errBody != nil {
			return fmt.Errorf("taint node %s: %w", node, errBody)
		}
		err = client.Patch(types.JSONPatchType).Resource("nodes").Name(node).Body(body).Do(ctx).Error()
		if err == nil || !isTestFailure(err) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("taint node %s: %w", node, err)
	}
	return nil
}
