// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// SharedKey returns what the Secret has under entry. Where there is no such
// Secret it is made with fresh: of several that do so at once one wins, and all
// return its value.
func (c *Client) SharedKey(ctx context.Context, namespace, name, entry string, fresh []byte) ([]byte, error) {
	client := c.clients[corev1.SchemeGroupVersion]
	get := func() ([]byte, error) {
		secret := &corev1.Secret{}
		err := client.Get().Namespace(namespace).Resource("secrets").Name(name).Do(ctx).Into(secret)
		if err != nil {
			return nil, fmt.Errorf("read Secret %s/%s: %w", namespace, name, err)
		}
		if len(secret.Data[entry]) == 0 {
			return nil, fmt.Errorf("read Secret %s/%s: it has no entry %s", namespace, name, entry)
		}
		return secret.Data[entry], nil
	}
	key, err := get()
	if !apierrors.IsNotFound(err) {
		return key, err
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}, Data: map[string][]byte{entry: fresh}}
	secret.APIVersion, secret.Kind = "v1", "Secret"
	err = client.Post().Namespace(namespace).Resource("secrets").Body(secret).Do(ctx).Error()
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return nil, fmt.Errorf("make Secret %s/%s: %w", namespace, name, err)
	}
	return get()
}
